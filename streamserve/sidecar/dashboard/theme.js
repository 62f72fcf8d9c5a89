// Light or dark before the first paint; a classic script so that nothing flashes. The choice outlives the page.
(() => {
  const stored = (() => {
    try {
      return localStorage.getItem("streamserve.theme");
    } catch {
      return null; // storage may be forbidden
    }
  })();
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
})();
