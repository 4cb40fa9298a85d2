// Copies the browser files that pages load, with their licences, from node_modules into app/static/vendor.
import { copyFileSync, mkdirSync, rmSync } from "node:fs";

const target = "app/static/vendor";
const files = {
  "htmx.org/dist/htmx.min.js": "htmx.min.js",
  "htmx.org/LICENSE": "htmx.LICENSE",
  "uplot/dist/uPlot.iife.min.js": "uPlot.iife.min.js",
  "uplot/dist/uPlot.min.css": "uPlot.min.css",
  "uplot/LICENSE": "uPlot.LICENSE",
};
rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
for (const [from, to] of Object.entries(files)) copyFileSync(`node_modules/${from}`, `${target}/${to}`);
console.log(`${Object.keys(files).length} files in ${target}`);
