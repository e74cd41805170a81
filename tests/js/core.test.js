// What of core.js needs no page: numbers, colors, ticks by way of a stand-in for the page.
import assert from "node:assert/strict";
import test from "node:test";
import {
  bytesOf,
  COLORS,
  decibel,
  escaped,
  fixed,
  grouped,
  heatColor,
  normals,
  percent,
  uniforms,
} from "../../diffbook/show/js/core.js";

test("numbers have a true minus sign and no negative zero", () => {
  assert.equal(fixed(-1.005, 1), "−1.0");
  assert.equal(fixed(-0.001), "0.00");
  assert.equal(fixed(2.5, 0), "3");
  assert.equal(fixed(Number.NEGATIVE_INFINITY), "−∞");
  assert.equal(fixed(Number.NaN), "undefined");
  assert.equal(percent(0.306, 1), "30.6 %");
  assert.equal(decibel(3), "+3.0 dB");
  assert.equal(decibel(-46.02), "−46.0 dB");
});

test("thousands are grouped", () => {
  assert.equal(grouped(131072), "131,072");
  assert.equal(grouped(999), "999");
  assert.equal(grouped(1e6), "1,000,000");
});

test("text cannot become markup", () => {
  assert.equal(escaped('<b a="1">&'), "&lt;b a=&quot;1&quot;&gt;&amp;");
});

test("base64 becomes the bytes it was", () => {
  assert.deepEqual([...bytesOf("AP8Q")], [0, 255, 16]);
});

test("a signed map has no color at zero, blue above, red below; values beyond the top stay", () => {
  assert.ok(Math.min(...heatColor(0, 1, true)) > 240);
  const [red, , blue] = heatColor(0.8, 1, true);
  assert.ok(blue > red + 50);
  assert.ok(heatColor(-0.8, 1, true)[0] > heatColor(-0.8, 1, true)[2] + 50);
  assert.deepEqual(heatColor(7, 1, true), heatColor(1, 1, true));
  assert.deepEqual(heatColor(-7, 1, false), heatColor(0, 1, false));
});

test("the same seed gives the same numbers, with the right moments", () => {
  const [one, two] = [normals(3), normals(3)];
  const draws = Array.from({ length: 20000 }, one);
  assert.equal(draws[0], two());
  const mean = draws.reduce((sum, x) => sum + x, 0) / draws.length;
  const square = draws.reduce((sum, x) => sum + x * x, 0) / draws.length;
  assert.ok(Math.abs(mean) < 0.03 && Math.abs(square - 1) < 0.04);
  const flat = Array.from({ length: 20000 }, uniforms(1));
  assert.ok(flat.every((x) => x > 0 && x < 1));
  assert.notEqual(normals(4)(), draws[0]);
});

test("colors are the book's names", () => {
  assert.ok(["diff", "transformer", "signal", "noise"].every((name) => COLORS[name]));
});
