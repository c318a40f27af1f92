// Runs before anything is painted: the theme, and the token of a link, which leaves the address bar at once.
(() => {
  const take = () => {
    const link = /^#token=(.+)$/.exec(location.hash);
    if (!link) return;
    history.replaceState(null, "", location.pathname + location.search + "#/");
    const until = Date.now() + 12 * 3600e3;
    let token = link[1];
    try {
      token = decodeURIComponent(token);
    } catch {} // it is as it is
    sessionStorage.setItem("pointsman.token", JSON.stringify({ token, until }));
    dispatchEvent(new Event("token"));
  };
  take();
  addEventListener("hashchange", take); // a link that is opened in a tab with the page
  const broken = ({ target }) => target.tagName === "SCRIPT" && (document.body.textContent = "A file of this page did not load. A proxy in front has to pass on Host and Origin as the browser sent them, with their port.");
  addEventListener("error", broken, true);
  const theme = localStorage.getItem("pointsman.theme");
  if (theme) document.documentElement.dataset.theme = theme;
})();
