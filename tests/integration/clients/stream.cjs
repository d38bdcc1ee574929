// Many requests on one ModelStreamInfer through @grpc/grpc-js, one of them for no model: prints every answer by its id.
//   node stream.cjs HOST:PORT COUNT
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, count] = [process.argv[2], Number(process.argv[3])];
const folder = path.join(__dirname, '..', '..', '..', 'proto');
const definition = loader.loadSync('inference.proto', { includeDirs: [folder], keepCase: true });
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const client = new GRPCInferenceService(address, grpc.credentials.createInsecure());

function request(id, model) {
  const row = Float32Array.from([id, 1, 2, 3]);
  return {
    model_name: model,
    id: String(id),
    inputs: [{ name: 'input', datatype: 'FP32', shape: [1, 4] }],
    raw_input_contents: [Buffer.from(row.buffer)],
  };
}

const answers = {};
const stream = client.ModelStreamInfer({ deadline: Date.now() + 30000 });
stream.on('data', ({ error_message: error, infer_response: response }) => {
  if (error) {
    answers[response.id] = error;
    return;
  }
  const raw = Buffer.from(response.raw_output_contents[0]);
  answers[response.id] = Array.from({ length: raw.length / 4 }, (_, i) => raw.readFloatLE(4 * i));
});
stream.on('error', (error) => { console.error(error); process.exit(1); });
stream.on('end', () => { client.close(); console.log(JSON.stringify(answers)); });
for (let id = 0; id < count; id += 1) stream.write(request(id, 'linear'));
stream.write(request(count, 'nobody'));
stream.end();
