// Where what has the focus goes away, the focus stays near it: the keyboard does not begin again at the top of the page.

/** What has had the focus and all that it is in, innermost first; empty once a pointer has been used. */
let around = [];

/** Called once. */
export function keepFocus() {
  addEventListener("pointerdown", () => (around = []), true);
  addEventListener("focusin", ({ target }) => {
    around = [];
    for (let one = target; one && one !== document.body; one = one.parentElement) around.push(one);
  });
  new MutationObserver(() => {
    if (!around.length || around[0].isConnected || document.activeElement !== document.body) return;
    const near = around.find((one) => one.isConnected && one.matches("section, main, [tabindex]"));
    around = [];
    if (!near) return;
    if (!near.hasAttribute("tabindex")) near.tabIndex = -1;
    near.focus({ preventScroll: true });
  }).observe(document.body, { childList: true, subtree: true });
}
