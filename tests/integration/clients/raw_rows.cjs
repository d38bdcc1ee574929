// Raw rows through @grpc/grpc-js: prints the probabilities of each row as JSON.
//   node raw_rows.cjs HOST:PORT MODEL LARGEST_BATCH < columns.json
// The input is {column: {datatype, data}}, null for a missing number; with base64: true the data are bytes. Requests have at
// most so many rows.
const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, model, batch] = process.argv.slice(2);
const largest = Number(batch);
const columns = JSON.parse(fs.readFileSync(0, 'utf8'));
const count = Object.values(columns)[0].data.length;
const folder = path.join(__dirname, '..', '..', '..', 'proto');
const definition = loader.loadSync('inference.proto', { includeDirs: [folder], keepCase: true });
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const client = new GRPCInferenceService(address, grpc.credentials.createInsecure());

const encoding = (column) => (column.base64 ? 'base64' : 'utf8');
const part = (at) => Object.entries(columns).map(([name, column]) => {
  const cells = column.data.slice(at, at + largest);
  return {
    name,
    datatype: column.datatype,
    shape: [cells.length],
    contents: column.datatype === 'BYTES'
      ? { bytes_contents: cells.map((cell) => Buffer.from(cell, encoding(column))) }
      : { fp64_contents: cells.map((cell) => (cell === null ? NaN : cell)) },
  };
});

const answers = [];
const ask = (at) => {
  if (at >= count) {
    console.log(JSON.stringify(answers));
    client.close();
    return;
  }
  const request = { model_name: model, inputs: part(at), outputs: [{ name: 'softmax' }] };
  client.ModelInfer(request, { deadline: Date.now() + 60000 }, (error, response) => {
    if (error) { console.error(error); process.exit(1); }
    const raw = Buffer.from(response.raw_output_contents[0]);
    const width = Number(response.outputs[0].shape[1]);
    const numbers = Array.from({ length: raw.length / 4 }, (_, i) => raw.readFloatLE(4 * i));
    for (let i = 0; i < numbers.length; i += width) answers.push(numbers.slice(i, i + width));
    ask(at + largest);
  });
};
ask(0);
