// Everything happens here, in the visitor's browser: page.json says what the network is and where the runtime lies.
const $ = (id) => document.getElementById(id);
const TOP = 5; // classes
const SMALL = 128, SCREEN = 1024; // pixels on a side: shown as squares below, and reduced above
const MOST_PIXELS = 2 ** 24; // what every browser's canvas takes
let page, preprocessing, networks = {}, ort = {}, current; // current: {bitmap, name} of the picture on show

// ---- the runtime and the networks ----

async function read({ url, integrity }) {
  const response = await fetch(url, integrity ? { integrity } : {}).catch(() => ({ ok: false }));
  if (!response.ok) throw new Error(`${url} cannot be loaded, or is not what it should be`);
  return response.arrayBuffer();
}

async function loadRuntime(device) {
  if (ort[device]) return ort[device];
  const { module, binary } = page.runtime[device];
  const [code, wasmBinary] = await Promise.all([read(module), read(binary)]);
  const runtime = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  runtime.env.wasm.wasmBinary = wasmBinary;
  return (ort[device] = runtime);
}

async function loadNetwork(device) {
  if (networks[device]) return networks[device];
  const runtime = await loadRuntime(device);
  networks[device] = await runtime.InferenceSession.create(page.network, { executionProviders: [device] });
  await run(new ImageData(8, 8), device); // the first run takes longer: it is not a visitor's
  return networks[device];
}

// ---- from a picture to an answer ----

function imageDataOf(bitmap) {
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

function pixelsOf({ data: rgba, width, height }) { // RGB, uint8, (height, width, 3)
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    rgb[j++] = rgba[i]; rgb[j++] = rgba[i + 1]; rgb[j++] = rgba[i + 2];
  }
  return new ort.wasm.Tensor("uint8", rgb, [height, width, 3]);
}

async function run(picture, device) {
  const start = performance.now();
  const { pixels } = await preprocessing.run({ image: pixelsOf(picture) });
  const prepared = performance.now();
  const images = new ort[device].Tensor("float32", pixels.data, pixels.dims);
  const [output] = Object.values(await networks[device].run({ images })); // the only one, whatever its name
  const values = await output.getData();
  const milliseconds = [prepared - start, performance.now() - prepared].map(Math.round);
  return { values, dims: output.dims, milliseconds };
}

function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

function mostProbable({ values }) {
  const probabilities = softmax(values);
  return probabilities
    .map((share, index) => ({ label: page.labels[index], share }))
    .sort((a, b) => b.share - a.share)
    .slice(0, TOP);
}

function classOfEachPixel({ values, dims: [, classes, height, width] }) {
  const size = height * width, best = values.slice(0, size), labels = new Uint16Array(size);
  for (let label = 1; label < classes; label++) {
    for (let i = 0, j = label * size; i < size; i++, j++) {
      if (values[j] > best[i]) [best[i], labels[i]] = [values[j], label];
    }
  }
  return labels;
}

// ---- what the visitor sees ----

function say(status, error = "") {
  $("status").textContent = status;
  $("error").textContent = error;
}

function fit(canvas, width, height) { // as large as the picture, but not larger than a screen
  const scale = Math.min(1, SCREEN / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.classList.toggle("small", Math.max(width, height) < SMALL);
  return canvas.getContext("2d");
}

function showPicture({ bitmap, name }) {
  const canvas = $("picture");
  fit(canvas, bitmap.width, bitmap.height).drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.ariaLabel = `Your picture: ${name}`;
  canvas.hidden = false;
  $("overlay").hidden = $("hint").hidden = true;
  $("stage").classList.add("filled");
}

function showList(entries) {
  const items = entries.map(({ label, share, color }) => {
    const item = document.createElement("li");
    item.innerHTML = '<span></span><span class="share"></span><div class="bar" aria-hidden="true"><i></i></div>';
    item.children[0].textContent = label;
    item.children[1].textContent = `${(100 * share).toFixed(1)} %`;
    item.dataset.share = share;
    item.querySelector("i").style.cssText = `width: ${100 * share}%; ${color ? `background: ${color}` : ""}`;
    return item;
  });
  $("results").replaceChildren(...items);
}

function showClasses(labels, high, wide) {
  const counts = new Array(page.labels.length).fill(0);
  const image = new ImageData(wide, high), small = new OffscreenCanvas(wide, high);
  labels.forEach((label, i) => {
    counts[label]++;
    image.data.set([...page.colors[label], 255], 4 * i);
  });
  small.getContext("2d").putImageData(image, 0, 0);
  const { width, height } = $("picture"), context = fit($("overlay"), width, height);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, width, height);
  $("overlay").hidden = $("opacity").hidden = false;
  const entries = counts.map((count, label) => ({
    label: page.labels[label], share: count / labels.length, color: `rgb(${page.colors[label]})`,
  }));
  showList(entries.filter(({ share }) => share > 0).sort((a, b) => b.share - a.share));
}

let last = Promise.resolve();

// One at a time: who clicks again while a runtime loads must not load it twice.
function answer() {
  last = last.catch(() => {}).then(answerNow);
  return last;
}

async function answerNow() {
  if (!current) return;
  await ready; // a picture may come while the network is still loading
  say("Looking …");
  await new Promise((done) => setTimeout(done, 20)); // the browser paints first
  const device = document.querySelector("input[name=device]:checked").value;
  await loadNetwork(device);
  const result = await run(imageDataOf(current.bitmap), device);
  if (page.colors) {
    showClasses(classOfEachPixel(result), ...result.dims.slice(2));
  } else {
    showList(mostProbable(result));
  }
  const [prepared, computed] = result.milliseconds, name = device === "webgpu" ? "WebGPU" : "WebAssembly";
  say(`Prepared in ${prepared} ms, computed in ${computed} ms by ${name}.`);
}

// ---- where pictures come from ----

async function open(blob, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    const scale = Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height));
    if (scale < 1) bitmap = await createImageBitmap(bitmap, { resizeWidth: Math.floor(bitmap.width * scale), resizeQuality: "high" });
  } catch {
    return say("", `${name} is no picture that this browser can read: choose a JPEG, PNG or WebP file.`);
  }
  current = { bitmap, name };
  showPicture(current);
  await guarded(answer)();
}

const guarded = (action) => async (...values) => {
  try {
    await action(...values);
  } catch (error) {
    console.error(error);
    say("", `That failed: ${error.message}`);
  }
};

const openFile = (file) => file && open(file, file.name || "what was pasted");

function listen() {
  $("hint").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", ({ target }) => { openFile(target.files[0]); target.value = ""; });
  addEventListener("paste", ({ clipboardData }) => openFile(clipboardData.files[0]));
  addEventListener("dragover", (event) => { event.preventDefault(); $("stage").classList.add("over"); });
  addEventListener("dragleave", (event) => event.relatedTarget || $("stage").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("stage").classList.remove("over");
    openFile(event.dataTransfer.files[0]);
  });
  $("opacity").addEventListener("input", ({ target }) => ($("overlay").style.opacity = target.value));
  $("devices").addEventListener("change", guarded(answer));
  $("camera").addEventListener("click", guarded(takePicture));
}

async function takePicture() {
  const dialog = $("viewfinder"), video = dialog.querySelector("video"), take = dialog.querySelector("button");
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  take.disabled = true; // until there is something to take
  video.addEventListener("loadeddata", () => (take.disabled = false), { once: true });
  video.srcObject = stream;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  const bitmap = dialog.returnValue === "take" ? await createImageBitmap(video) : null;
  stream.getTracks().forEach((track) => track.stop());
  if (bitmap) {
    current = { bitmap, name: "from the camera" };
    showPicture(current);
    await answer();
  }
}

function addExamples() {
  const buttons = page.examples.map((url, i) => {
    const button = document.createElement("button"), image = new Image();
    button.type = "button";
    image.src = url;
    image.alt = `Example ${i + 1}`;
    button.append(image);
    button.addEventListener("click", guarded(async () => open(await (await fetch(url)).blob(), image.alt)));
    return button;
  });
  $("examples").replaceChildren(...buttons);
  $("examples").hidden = !buttons.length;
}

// ---- begin ----

async function begin() {
  page = JSON.parse(new TextDecoder().decode(await read({ url: "page.json" })));
  document.title = $("title").textContent = page.title;
  $("about").textContent = page.about;
  addExamples();
  const runtime = await loadRuntime("wasm");
  preprocessing = await runtime.InferenceSession.create(page.preprocessing);
  await loadNetwork("wasm");
  $("devices").hidden = !(navigator.gpu && (await navigator.gpu.requestAdapter()));
  if (!current) say("Choose, drop or paste a picture.");
}

listen();
$("camera").hidden = !navigator.mediaDevices;
const ready = location.protocol === "file:"
  ? Promise.reject(new Error("this page works from a web server only, for example by: fastvit serve FOLDER"))
  : begin();
guarded(() => ready)();
