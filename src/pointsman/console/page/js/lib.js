// All that the page uses of its libraries. Other modules import from here alone.
import { h, render } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export { render };
export const html = htm.bind(h);
export { useState, useEffect, useLayoutEffect, useRef, useId, useErrorBoundary } from "../vendor/hooks.js";
export { signal, computed, effect, batch, useSignal } from "../vendor/signals.js";
