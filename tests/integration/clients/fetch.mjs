// The REST API through fetch, as a web page or Node uses it: prints what it was answered as JSON.
//   node fetch.mjs URL
const url = process.argv[2];

async function post(path, body, headers = { 'Content-Type': 'application/json' }) {
  const answer = await fetch(url + path, { method: 'POST', headers, body });
  const kind = answer.headers.get('content-type');
  return { status: answer.status, kind, length: answer.headers.get('inference-header-content-length'),
    body: Buffer.from(await answer.arrayBuffer()) };
}

// Numbers as JavaScript writes them: whole ones without a point, large ones with zeros, and words for what is no number.
const numbers = [0.1, 16777216, 2 ** 69, 1e300, 5e-324, 'NaN', '-Infinity'];
const tensor = (data) => ({ name: 'input', shape: [1, data.length], datatype: 'FP64', data });
const echoed = await post('/v2/models/FP64/infer', JSON.stringify({ inputs: [tensor(numbers)] }));

const row = Float32Array.from([1, 2, 3, 4]);
const head = JSON.stringify({
  inputs: [{ name: 'input', shape: [1, 4], datatype: 'FP32', parameters: { binary_data_size: row.byteLength } }],
  outputs: [{ name: 'logits', parameters: { binary_data: true } }],
});
const binary = await post('/v2/models/linear/infer', new Blob([head, row]), {
  'Inference-Header-Content-Length': String(head.length),
});
const behind = binary.body.subarray(Number(binary.length));

const form = new FormData();
form.append('file', new Blob([Buffer.from(process.argv[3], 'base64')]), 'picture.png');
const picture = await fetch(`${url}/v2/models/fruit/predict`, { method: 'POST', body: form });

const refused = await post('/v2/models/nobody/infer', JSON.stringify({ inputs: [tensor([1])] }));
console.log(JSON.stringify({
  ready: (await fetch(`${url}/v2/health/ready`)).status,
  sent: numbers,
  echoed: JSON.parse(echoed.body).outputs[0].data,
  logits: Array.from(new Float32Array(behind.buffer.slice(behind.byteOffset, behind.byteOffset + behind.length))),
  picture: (await picture.json()).predictions[0].label,
  refused: [refused.status, JSON.parse(refused.body).error],
}));
