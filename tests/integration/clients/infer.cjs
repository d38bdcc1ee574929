// One ModelInfer through @grpc/grpc-js, with a stub from the contract file or from the server's reflection.
//   node infer.cjs HOST:PORT '[[...], ...]' proto|reflection
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, sent, foundBy] = process.argv.slice(2);
const rows = JSON.parse(sent);
const credentials = grpc.credentials.createInsecure();
const SERVICE = 'inference.GRPCInferenceService';

function fromFile() {
  const folder = path.join(__dirname, '..', '..', '..', 'proto');
  return loader.loadSync('inference.proto', { includeDirs: [folder], keepCase: true });
}

// The reflection protocol, spoken by hand: ask for the file of the service, then for what it depends on.
async function fromReflection() {
  const own = loader.fromJSON({
    nested: { grpc: { nested: { reflection: { nested: { v1alpha: { nested: {
      ServerReflection: { methods: { ServerReflectionInfo: {
        requestType: 'Request', requestStream: true, responseType: 'Response', responseStream: true } } },
      Request: { fields: { file_by_filename: { type: 'string', id: 3 }, file_containing_symbol: { type: 'string', id: 4 } } },
      Response: { fields: { file_descriptor_response: { type: 'Files', id: 4 } } },
      Files: { fields: { file_descriptor_proto: { rule: 'repeated', type: 'bytes', id: 1 } } },
    } } } } } } },
  }, { keepCase: true });
  const { ServerReflection } = grpc.loadPackageDefinition(own).grpc.reflection.v1alpha;
  const client = new ServerReflection(address, credentials);
  const stream = client.ServerReflectionInfo();
  const files = await new Promise((resolve, reject) => {
    stream.on('data', (answer) => resolve(answer.file_descriptor_response.file_descriptor_proto));
    stream.on('error', reject);
    stream.write({ file_containing_symbol: SERVICE });
  });
  stream.end();
  client.close();
  // A FileDescriptorSet is its files, each as field 1.
  const { Writer } = require('protobufjs/minimal');
  const writer = new Writer();
  for (const file of files) writer.uint32(10).bytes(file);
  return loader.loadFileDescriptorSetFromBuffer(Buffer.from(writer.finish()), { keepCase: true });
}

function numbers(response, name) {
  const index = response.outputs.findIndex((output) => output.name === name);
  const { datatype, shape } = response.outputs[index];
  const raw = Buffer.from(response.raw_output_contents[index]);
  const flat = datatype === 'INT64'
    ? Array.from({ length: raw.length / 8 }, (_, i) => Number(raw.readBigInt64LE(8 * i)))
    : Array.from({ length: raw.length / 4 }, (_, i) => raw.readFloatLE(4 * i));
  if (shape.length === 1) return flat;
  const width = Number(shape[1]);
  return Array.from({ length: Number(shape[0]) }, (_, i) => flat.slice(i * width, (i + 1) * width));
}

async function main() {
  const definition = foundBy === 'proto' ? fromFile() : await fromReflection();
  const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
  const client = new GRPCInferenceService(address, credentials);
  const request = {
    model_name: 'linear',
    inputs: [{ name: 'input', datatype: 'FP32', shape: [rows.length, rows[0].length] }],
    outputs: ['logits', 'softmax', 'argmax'].map((name) => ({ name })),
    raw_input_contents: [Buffer.from(Float32Array.from(rows.flat()).buffer)],
  };
  const response = await new Promise((resolve, reject) => {
    client.ModelInfer(request, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
  client.close();
  console.log(JSON.stringify(Object.fromEntries(
    ['logits', 'softmax', 'argmax'].map((name) => [name, numbers(response, name)]))));
}

main().catch((error) => { console.error(error); process.exit(1); });
