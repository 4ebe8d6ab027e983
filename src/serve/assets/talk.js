// Talking with the server. The page's address ends in the token, so that all addresses are relative
// to it.
const ABOUT = JSON.parse($('about').textContent);

// What the server answers to a request, as JSON; an error has the server's own sentence.
async function ask(path, body) {
  const options =
    body === undefined
      ? {}
      : {method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body)};
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error('attnmap serve does not answer; start it again and open the address that it prints');
  }
  const text = await answer.text();
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    /* a refusal is plain text */
  }
  if (!answer.ok) throw new Error((value && value.error) || text.trim() || 'the server answered ' + answer.status);
  return value;
}

const runPath = (run, what) => 'runs/' + encodeURIComponent(run) + '/' + what;

// Numbers as the server writes them: 32-bit floats in base64.
function floats(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

// A picture that can be drawn.
async function loaded(src) {
  const picture = new Image();
  picture.src = src;
  await picture.decode();
  return picture;
}
