// Build the page into src/rtcbridge/gateway/static. `--check` only tells whether what is there is current,
// and needs no installed packages; current.py tells the same where there is no Node.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = dirname(HERE);
const OUT = join(ROOT, "src/rtcbridge/gateway/static");
const STAMP = join(OUT, "BUILD.json");
// Everything that the built files depend on; current.py has the same list.
const SOURCES = [
  "console/src",
  "console/clip/clip.webm",
  "console/build.mjs",
  "console/package-lock.json",
  "sdk/js/src",
];

const sha256 = (data) => createHash("sha256").update(data).digest("hex");

/** Files at or under `path`, relative to the root, with `/` between names. */
function files(path) {
  if (!statSync(join(ROOT, path)).isDirectory()) return [path];
  return readdirSync(join(ROOT, path)).flatMap((name) => files(`${path}/${name}`));
}

/** One digest over the names and contents of all sources. */
function digest() {
  const lines = SOURCES.flatMap(files).map((path) => `${path} ${sha256(readFileSync(join(ROOT, path)))}\n`);
  return sha256(lines.sort().join(""));
}

function isCurrent() {
  try {
    const stamp = JSON.parse(readFileSync(STAMP, "utf8"));
    const intact = ([path, hash]) => sha256(readFileSync(join(OUT, path))) === hash;
    return stamp.sources === digest() && Object.entries(stamp.files).every(intact);
  } catch {
    return false;
  }
}

async function build() {
  const { build } = await import("esbuild");
  rmSync(OUT, { recursive: true, force: true });
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: {
      app: "console/src/main.ts",
      style: "console/src/style.css",
      clip: "console/clip/clip.webm",
    },
    alias: { rtcbridge: join(ROOT, "sdk/js/src/index.ts") },
    outdir: join(OUT, "assets"),
    entryNames: "[name]-[hash]",
    assetNames: "[name]-[hash]",
    loader: { ".webm": "copy" },
    bundle: true,
    minify: true,
    format: "esm",
    target: ["chrome111", "firefox113", "safari16.4"],
    legalComments: "none",
    metafile: true,
  });
  const built = Object.keys(metafile.outputs).map((path) => basename(path));
  const asset = (pattern) => `/assets/${built.find((name) => pattern.test(name))}`;
  const page = readFileSync(join(HERE, "src/index.html"), "utf8")
    .replace("%app.css%", asset(/^style-.*\.css$/))
    .replace("%app.js%", asset(/^app-.*\.js$/))
    .replace("%clip.webm%", asset(/^clip-.*\.webm$/));
  mkdirSync(OUT, { recursive: true });
  writeFileSync(join(OUT, "index.html"), page);
  const outputs = ["index.html", ...built.map((name) => `assets/${name}`)].sort();
  const hashes = Object.fromEntries(outputs.map((path) => [path, sha256(readFileSync(join(OUT, path)))]));
  writeFileSync(STAMP, JSON.stringify({ sources: digest(), files: hashes }, null, 2) + "\n");
  for (const path of outputs) console.log(`${String(statSync(join(OUT, path)).size).padStart(8)}  ${path}`);
}

if (process.argv.includes("--check")) {
  if (!isCurrent()) {
    console.error("the built page is not current: run `npm ci && npm run build` in console/");
    process.exit(1);
  }
} else await build();
