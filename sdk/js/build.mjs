// `node build.mjs`: dist/index.js, one small module, and dist/react.js. `node build.mjs --test`: bundle the tests and run them.

import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const LARGEST = 12 * 1024; // bytes, compressed: what the package may cost a page

const common = {
  absWorkingDir: HERE,
  bundle: true,
  format: "esm",
  target: "es2022",
};

async function library() {
  for (const name of ["index", "react"]) {
    const entry = { ...common, entryPoints: [`src/${name}.ts`], external: ["react"] };
    await build({ ...entry, outfile: `dist/${name}.js`, sourcemap: true });
    const small = await build({ ...entry, minify: true, write: false });
    const size = gzipSync(small.outputFiles[0].contents).length;
    console.log(`${name}.js, minified and compressed: ${size} bytes`);
    if (size > LARGEST) throw new Error(`larger than ${LARGEST} bytes`);
  }
}

async function test() {
  const outdir = join(HERE, "build");
  rmSync(outdir, { recursive: true, force: true });
  const entryPoints = readdirSync(join(HERE, "test")).filter((name) => name.endsWith(".test.ts"));
  await build({
    ...common,
    entryPoints: entryPoints.map((name) => `test/${name}`),
    outdir,
    outExtension: { ".js": ".mjs" },
    platform: "node",
    sourcemap: "inline",
  });
  const files = readdirSync(outdir).map((name) => join(outdir, name));
  const { status } = spawnSync(process.execPath, ["--enable-source-maps", "--test", ...files], {
    stdio: "inherit",
  });
  process.exit(status ?? 1);
}

await (process.argv.includes("--test") ? test() : library());
