// Raw rows through @grpc/grpc-js: prints the outputs of each row, one after the other, as JSON; without one, it is softmax.
//   node raw_rows.cjs HOST:PORT MODEL LARGEST_BATCH [OUTPUT ...] < columns.json
// The input is {column: {datatype, data}}, null for a missing number; of files and of pixels {datatype, base64}, of pixels with
// the shape of each row. Requests have at most so many rows; of one row, 64 are sent at once.
const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, model, batch, ...named] = process.argv.slice(2);
const outputs = named.length ? named : ['softmax'];
const largest = Number(batch);
const columns = JSON.parse(fs.readFileSync(0, 'utf8'));
const cellsOf = ({ data, base64 }) => data || base64;
const count = cellsOf(Object.values(columns)[0]).length;
const folder = path.join(__dirname, '..', '..', '..', 'proto');
const definition = loader.loadSync('inference.proto', { includeDirs: [folder], keepCase: true });
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const client = new GRPCInferenceService(address, grpc.credentials.createInsecure());

const contentsOf = ({ datatype, data, base64 }, from, to) => {
  if (base64) return { bytes_contents: base64.slice(from, to).map((content) => Buffer.from(content, 'base64')) };
  return datatype === 'BYTES'
    ? { bytes_contents: data.slice(from, to).map((cell) => Buffer.from(cell, 'utf8')) }
    : { fp64_contents: data.slice(from, to).map((cell) => (cell === null ? NaN : cell)) };
};
const pixels = Object.values(columns).filter(({ datatype }) => datatype === 'UINT8');
const requestOf = (from, to) => ({
  model_name: model,
  inputs: Object.entries(columns).map(([name, column]) => ({
    name,
    datatype: column.datatype,
    shape: [cellsOf(column).slice(from, to).length, ...(column.shape || [])],
    ...(pixels.length ? {} : { contents: contentsOf(column, from, to) }),
  })),
  raw_input_contents: pixels.map(({ base64 }) => Buffer.concat(base64.slice(from, to).map((row) => Buffer.from(row, 'base64')))),
  outputs: outputs.map((name) => ({ name })),
});

const answers = [];
let left = Math.ceil(count / largest);
// Each lane asks again when it has its answer.
const lanes = largest === 1 ? 64 : 1;
const ask = (at) => {
  if (at >= count) return;
  client.ModelInfer(requestOf(at, at + largest), { deadline: Date.now() + 60000 }, (error, response) => {
    if (error) { console.error(error); process.exit(1); }
    response.raw_output_contents.forEach((content, place) => {
      const raw = Buffer.from(content);
      const rows = Number(response.outputs[place].shape[0]);
      const width = raw.length / 4 / rows;
      for (let row = 0; row < rows; row += 1) {
        const numbers = Array.from({ length: width }, (_, i) => raw.readFloatLE(4 * (row * width + i)));
        answers[at + row] = [...(answers[at + row] || []), ...numbers];
      }
    });
    left -= 1;
    if (left === 0) {
      console.log(JSON.stringify(answers));
      client.close();
    }
    ask(at + lanes * largest);
  });
};
for (let lane = 0; lane < lanes; lane += 1) ask(lane * largest);
