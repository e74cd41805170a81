import assert from "node:assert/strict";
import { test } from "node:test";

import { compareKeys, matches } from "../../diffbook/show/js/table.js";

const sorted = (keys, descending) => [...keys].sort((a, b) => compareKeys(a, b, descending));

test("numbers by size, not by their digits", () => {
  assert.deepEqual(sorted(["10", "9", "-0.5", "1e3"]), ["-0.5", "9", "10", "1e3"]);
});

test("texts by alphabet, numbers inside of them by size", () => {
  assert.deepEqual(sorted(["Table 10", "fig. 2", "Table 9"]), ["fig. 2", "Table 9", "Table 10"]);
});

test("empty cells are last in both directions", () => {
  assert.deepEqual(sorted(["", "2", "1"]), ["1", "2", ""]);
  assert.deepEqual(sorted(["", "2", "1"], true), ["2", "1", ""]);
});

test("a row is shown when it holds every word and the chosen value", () => {
  assert.ok(matches("Table 6 a lower loss", "LOSS table", "reproduced", "reproduced"));
  assert.ok(matches("Table 6 a lower loss", "", "reproduced", ""));
  assert.ok(!matches("Table 6 a lower loss", "needle", "reproduced", ""));
  assert.ok(!matches("Table 6 a lower loss", "loss", "reproduced", "contradicted"));
});
