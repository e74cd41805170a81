// Small repairs to the theme's HTML for keyboards and screen readers. Runs on every page.
document.addEventListener("DOMContentLoaded", () => {
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);
  // A button's accessible name must contain the words one sees on it.
  each(".search-button-field", (button) => button.removeAttribute("aria-label"));
  each("summary[aria-label]", (summary) => summary.removeAttribute("aria-label"));
  // Every part of the page belongs to a landmark.
  each(".bd-sidebar-primary", (sidebar) => {
    sidebar.setAttribute("role", "navigation");
    sidebar.setAttribute("aria-label", "Book");
  });
  // What scrolls sideways can be reached and scrolled with the keyboard.
  each("div.highlight pre, .table-scroll", (box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
  });
  // Wide tables scroll inside their own box; the page never does.
  each(".bd-article table", (table) => {
    if (table.closest(".table-scroll, .pst-scrollable-table-container, .cell_output")) return;
    const box = document.createElement("div");
    box.className = "table-scroll";
    table.replaceWith(box);
    box.append(table);
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
  });
});
