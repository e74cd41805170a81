// Brings the slides of a lecture to life. Loaded in the head, so that the page is dressed at once.
// Without it, on a phone, and with ?plain in the address the same text is one page to scroll.
(() => {
  const page = document.documentElement;
  const asked = new URLSearchParams(location.search);
  const isPrint = asked.has("print-pdf");
  // Windows of the speaker's view are small and yet slides.
  const isPlain = asked.has("plain") || (innerWidth < 700 && !isPrint && !asked.has("receiver"));

  // ------------------------------------------------------------ light and dark, as on the site
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("mode");
  } catch {
    chosen = null; // a browser may keep a file from storing anything: then the system decides
  }
  const dress = () => {
    const isDark = chosen === "dark" || (chosen !== "light" && system.matches);
    page.dataset.theme = isDark && !isPrint ? "dark" : "light";
  };
  system.addEventListener("change", dress);
  dress();

  const turn = () => {
    chosen = page.dataset.theme === "dark" ? "light" : "dark";
    dress();
    try {
      localStorage.setItem("mode", chosen);
      localStorage.setItem("theme", chosen);
    } catch {
      // Nothing to do: the choice holds for this page.
    }
  };

  page.classList.add(isPlain ? "plain" : "deck");
  page.classList.toggle("asked", asked.has("plain"));
  if (!isPlain) document.getElementById("reveal-css").media = "all";

  // ------------------------------------------------------------ keys
  // A control has its own keys as long as it has the focus; Escape gives them back to the slides,
  // and the keys of a presenter's remote (page up, page down) always turn the slides.
  const leavesToSlides = (event) => {
    const on = event.composedPath()[0];
    if (!on.matches?.("input, select, textarea, button, a, summary, audio, [tabindex], [role]")) {
      return true;
    }
    if (event.key === "PageUp" || event.key === "PageDown") return true;
    if (event.key === "Escape") {
      on.blur();
      return false;
    }
    const isPressed = on.matches("button, a, summary, input[type=checkbox]");
    return isPressed ? ![" ", "Enter"].includes(event.key) : false;
  };

  // ------------------------------------------------------------ pointers
  // A slide is drawn larger or smaller than its own pixels, in which a figure counts. Where the
  // pointer is over a drawing, tell the figure its place in those.
  const inOwnPixels = (event) => {
    const drawing = event.composedPath().find((part) => part.matches?.(".drawing"));
    if (!drawing) return;
    const seen = drawing.getBoundingClientRect();
    const scale = seen.width / (drawing.viewBox?.baseVal.width || drawing.clientWidth);
    if (!(scale > 0) || Math.abs(scale - 1) < 1e-3) return;
    const [x, y] = [event.clientX - seen.left, event.clientY - seen.top];
    Object.defineProperties(event, {
      clientX: { value: seen.left + x / scale },
      clientY: { value: seen.top + y / scale },
    });
  };
  for (const kind of ["pointerdown", "pointermove", "pointerup", "click", "mousemove"]) {
    document.addEventListener(kind, inOwnPixels, true);
  }

  // ------------------------------------------------------------ start
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelector("[data-theme-button]").addEventListener("click", turn);
    if (isPlain) {
      const link = document.querySelector(".plain-link");
      if (innerWidth < 700) link.remove();
      else Object.assign(link, { href: location.pathname, textContent: "As slides" });
      return;
    }
    window.Reveal.initialize({
      width: 1280,
      height: 720,
      margin: 0,
      minScale: 0.1,
      maxScale: 4,
      center: false,
      display: "flex",
      hash: true,
      slideNumber: "c/t",
      transition: "none",
      backgroundTransition: "none",
      controlsTutorial: false,
      scrollActivationWidth: null,
      pdfSeparateFragments: false,
      pdfMaxPagesPerSlide: 1,
      keyboardCondition: leavesToSlides,
      plugins: [window.RevealNotes],
    });
  });
})();
