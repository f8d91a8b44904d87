// Light or dark: the system's choice until the button says otherwise; told to the page by an event.
"use strict";

(() => {
  const KEY = "video-kv-bench-theme";
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  function remembered() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage may be forbidden to pages from disk
    }
  }

  function remember(theme) {
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // then it lasts as long as the page
    }
  }

  const current = () => root.dataset.theme || (system.matches ? "dark" : "light");
  const tell = () => document.dispatchEvent(new CustomEvent("theme", { detail: current() }));

  const stored = remembered();
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  window.currentTheme = current;
  // A colour of the style sheet as the browser resolves it now; for what is drawn by scripts.
  window.colour = (name) => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  system.addEventListener("change", tell);

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector("[data-theme-button]");
    const say = () => {
      button.textContent = current() === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to ${button.textContent.toLowerCase()} colours`);
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = current() === "dark" ? "light" : "dark";
      remember(root.dataset.theme);
      tell();
    });
    document.addEventListener("theme", say);
    say();
  });
})();
