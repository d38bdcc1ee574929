// Raw rows through @grpc/grpc-js, in one ModelInfer: prints the probabilities of each row as JSON.
//   node raw_rows.cjs HOST:PORT MODEL < columns.json
// The input is {column: {datatype, data}}, null for a missing number; of files and of pixels {datatype, base64}, of pixels with
// the shape of each row.
const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, model] = process.argv.slice(2);
const columns = JSON.parse(fs.readFileSync(0, 'utf8'));
const folder = path.join(__dirname, '..', '..', '..', 'proto');
const definition = loader.loadSync('inference.proto', { includeDirs: [folder], keepCase: true });
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const client = new GRPCInferenceService(address, grpc.credentials.createInsecure());

const contentsOf = ({ datatype, data, base64 }) => {
  if (base64) return { bytes_contents: base64.map((content) => Buffer.from(content, 'base64')) };
  return datatype === 'BYTES'
    ? { bytes_contents: data.map((cell) => Buffer.from(cell, 'utf8')) }
    : { fp64_contents: data.map((cell) => (cell === null ? NaN : cell)) };
};
const pixels = Object.values(columns).filter(({ datatype }) => datatype === 'UINT8');
const inputs = Object.entries(columns).map(([name, column]) => ({
  name,
  datatype: column.datatype,
  shape: [(column.data || column.base64).length, ...(column.shape || [])],
  ...(pixels.length ? {} : { contents: contentsOf(column) }),
}));
const raw_input_contents = pixels.map(({ base64 }) => Buffer.concat(base64.map((row) => Buffer.from(row, 'base64'))));
client.ModelInfer({ model_name: model, inputs, raw_input_contents, outputs: [{ name: 'softmax' }] }, { deadline: Date.now() + 60000 }, (error, response) => {
  if (error) { console.error(error); process.exit(1); }
  const raw = Buffer.from(response.raw_output_contents[0]);
  const width = Number(response.outputs[0].shape[1]);
  const numbers = Array.from({ length: raw.length / 4 }, (_, i) => raw.readFloatLE(4 * i));
  const rows = Array.from({ length: numbers.length / width }, (_, i) => numbers.slice(i * width, (i + 1) * width));
  console.log(JSON.stringify(rows));
  client.close();
});
