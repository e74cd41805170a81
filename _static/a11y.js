// Small repairs to the theme's HTML for keyboards and screen readers. Runs on every page.

// Paper is light, also for those who read in the dark.
const page = document.documentElement;
let theme = null;
addEventListener("beforeprint", () => {
  theme = page.dataset.theme;
  page.dataset.theme = "light";
});
addEventListener("afterprint", () => {
  page.dataset.theme = theme;
});

document.addEventListener("DOMContentLoaded", async () => {
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);
  // A button's accessible name must contain the words one sees on it.
  each(".search-button-field", (button) => button.removeAttribute("aria-label"));
  each("summary[aria-label]", (summary) => summary.removeAttribute("aria-label"));
  // Every part of the page belongs to a landmark.
  each(".bd-sidebar-primary", (sidebar) => {
    sidebar.setAttribute("role", "navigation");
    sidebar.setAttribute("aria-label", "Book");
  });
  // The empty corner of a table is no heading.
  each(".bd-article th", (cell) => {
    if (cell.textContent.trim()) return;
    const corner = document.createElement("td");
    corner.className = cell.className;
    cell.replaceWith(corner);
  });
  // What scrolls sideways can be reached, and then scrolled, with the keyboard. Formulas have
  // their width only after MathJax has set them.
  await (window.MathJax?.startup?.promise ?? 0);
  const boxes =
    ".bd-article pre, .bd-article .pst-scrollable-table-container, .bd-article div.math, " +
    ".cell_output .output, dl.py > dt.sig";
  const makeReachable = () =>
    each(boxes, (box) => {
      const scrolls = getComputedStyle(box).overflowX === "auto";
      if (scrolls && box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    });
  makeReachable();
  addEventListener("resize", makeReachable);
});
