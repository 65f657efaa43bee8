// Runs the explorer's JavaScript outside a browser, for tests/test_explorer.py: one request as JSON on stdin, the answer
// as JSON on stdout. {static: folder, file: path or {bundled: name}, variance, smooth, scores: [nodes…], jumps: [[t, s]…],
// solve: most steps, spaced: [[T, steps, power]…]}
const fs = require("node:fs");
const path = require("node:path");

async function answer(request) {
  for (const name of ["costs", "solver", "read", "smoothing"]) require(path.join(request.static, `explorer-${name}.js`));
  const explorer = globalThis.dpdiffExplorer, result = {};
  if (request.spaced) result.spaced = request.spaced.map(([T, steps, power]) => explorer.spaced(T, steps, power));
  if (!request.file) return result;
  let costs;
  if (request.file.bundled) {
    require(path.join(request.static, `explorer-${request.file.bundled}.js`));
    costs = await explorer.unpackCosts(globalThis.dpdiffModels[request.file.bundled].costs);
  } else costs = await explorer.readCosts(new Uint8Array(fs.readFileSync(request.file)));
  if (request.smooth) costs = explorer.smoothed(costs);
  if (request.variance) costs.use(request.variance);
  result.variances = costs.variances;
  result.scores = (request.scores ?? []).map((nodes) => costs.score(nodes));
  result.jumps = (request.jumps ?? []).map(([t, s]) => costs.cost(t, s));
  if (request.solve) result.paths = await explorer.solve(costs, request.solve);
  return result;
}

answer(JSON.parse(fs.readFileSync(0, "utf8")))
  .catch((error) => ({ error: error.message }))
  .then((result) => process.stdout.write(JSON.stringify(result)));
