/* Costs files: the .npz that dpdiff.Costs.save writes, or the same statistics as JSON. Nothing leaves the browser. */
((explorer) => {
  "use strict";

  const GRID = ["betas", "log_f2", "log_g2"]; // a noise schedule is the first, or the other two
  const ARRAYS = [...GRID, "mse", "decoder_fixed", "decoder_optimal", "decoder_learned_range", "penalty", "error", "prior"];

  async function inflate(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** The files in a zip whose names `wanted` accepts: {name: Uint8Array}. The directory at the end says where they are. */
  async function unzip(bytes, wanted) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let end = bytes.length - 22;
    while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
    // A file of dpdiff ends with a digest as the zip's comment, which must be whole.
    if (end < 0 || end + 22 + view.getUint16(end + 20, true) !== bytes.length)
      throw new Error("it is no .npz file, or it is cut off");
    const files = {};
    let entry = view.getUint32(end + 16, true);
    for (let i = view.getUint16(end + 10, true); i > 0; i--) {
      const method = view.getUint16(entry + 10, true), size = view.getUint32(entry + 20, true);
      const nameLength = view.getUint16(entry + 28, true), place = view.getUint32(entry + 42, true);
      const name = new TextDecoder().decode(bytes.subarray(entry + 46, entry + 46 + nameLength));
      if (wanted(name)) {
        const start = place + 30 + view.getUint16(place + 26, true) + view.getUint16(place + 28, true);
        const body = bytes.subarray(start, start + size);
        files[name] = method === 0 ? body.slice() : await inflate(body);
      }
      entry += 46 + nameLength + view.getUint16(entry + 30, true) + view.getUint16(entry + 32, true);
    }
    return files;
  }

  /** One .npy file: floats as a typed array, a text (NumPy's <U…, four bytes a letter) as a string. */
  function npy(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), wide = bytes[6] > 1;
    const start = wide ? 12 + view.getUint32(8, true) : 10 + view.getUint16(8, true);
    const header = new TextDecoder("latin1").decode(bytes.subarray(wide ? 12 : 10, start));
    const type = header.match(/'descr': *'([^']*)'/)?.[1], body = bytes.slice(start).buffer;
    if (header.includes("'fortran_order': True")) throw new Error("its arrays are in Fortran's order");
    if (type === "<f8") return new Float64Array(body);
    if (type === "<f4") return Float64Array.from(new Float32Array(body));
    if (type?.startsWith("<U")) return String.fromCodePoint(...new Uint32Array(body)).replace(/\0+$/, "");
    throw new Error(`it holds an array of type ${type}`);
  }

  async function fromNpz(bytes) {
    const files = await unzip(bytes, (name) => name === "about.npy" || ARRAYS.includes(name.replace(/\.npy$/, "")));
    if (!files["about.npy"]) throw new Error("it is an .npz file, but not one that dpdiff's Costs.save wrote");
    const arrays = {};
    for (const name of ARRAYS) if (files[`${name}.npy`]) arrays[name] = npy(files[`${name}.npy`]);
    return [JSON.parse(npy(files["about.npy"])), arrays];
  }

  function fromJson(bytes) {
    const document = JSON.parse(new TextDecoder().decode(bytes)), arrays = {};
    for (const name of ARRAYS) if (document[name] !== undefined) arrays[name] = Float64Array.from([document[name]].flat(2));
    return [{ format: "dpdiff-costs", version: 1, ...document }, arrays];
  }

  function check(about, arrays) {
    if (about.format !== "dpdiff-costs" || ![1, 2].includes(about.version))
      throw new Error(`it is ${about.format} version ${about.version}; this page reads dpdiff-costs version 1 and 2`);
    for (const name of [...(arrays.log_f2 ? ["log_g2"] : ["betas"]), "mse"])
      if (!arrays[name]) throw new Error(`it has no "${name}"`);
    if (!Array.isArray(about.shape)) throw new Error('it has no "shape", such as [3, 32, 32]');
    const { betas, log_f2, log_g2 } = arrays, T = (betas ?? log_g2).length;
    if (T < 2 || betas?.some((beta) => !(beta > 0 && beta <= 1))) throw new Error("its betas are not all in (0, 1]");
    if (log_f2 && (log_f2.length !== T || [...log_f2, ...log_g2].some(Number.isNaN)))
      throw new Error("its noise schedule holds lengths or numbers that do not fit");
    for (const [name, values] of Object.entries(arrays)) {
      if (GRID.includes(name) || name === "prior") continue;
      const learned = name === "penalty" || name === "error";
      if (learned ? values.length % (T + 1) : values.length !== T + 1)
        throw new Error(`"${name}" holds ${values.length} numbers; with T = ${T} there should be ${T + 1}, for t = 0 … ${T}`);
      const wrong = values.findIndex((value) => !Number.isFinite(value));
      if (wrong >= (learned ? (2 * values.length) / (T + 1) : 1)) throw new Error(`"${name}" holds ${values[wrong]}`);
    }
    if (!Object.values(explorer.DECODERS).some((name) => arrays[name]))
      throw new Error('it has no "decoder_fixed", the cost of the last step from every t');
  }

  /** Costs from the bytes of either kind of file; an Error says in words what is wrong with it. */
  async function readCosts(bytes) {
    let about, arrays;
    try {
      [about, arrays] = bytes[0] === 0x7b ? fromJson(bytes) : await fromNpz(bytes);
    } catch (error) {
      throw new Error(error instanceof SyntaxError ? `it is no valid JSON (${error.message})`
        : error instanceof RangeError || error instanceof TypeError ? "it is cut off or damaged" : error.message);
    }
    check(about, arrays);
    return new explorer.Costs(about, arrays);
  }

  /** The same of a bundled model, whose file stands in a script as base64. */
  function unpackCosts(base64) {
    return readCosts(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)));
  }

  /** The text of a schedule file that dpdiff.Schedule.load reads. */
  function scheduleFile(nodes, provenance) {
    return JSON.stringify({ format: "dpdiff-schedule", version: 1, timesteps: nodes, provenance }, null, 1);
  }

  Object.assign(explorer, { readCosts, unpackCosts, scheduleFile });
})(globalThis.dpdiffExplorer ??= {});
