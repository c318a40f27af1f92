// All that the page uses of its libraries. Other modules import from here alone.
import { h, render, Fragment } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export { render, Fragment };
export const html = htm.bind(h);
export { useState, useEffect, useLayoutEffect, useRef, useMemo, useId, useErrorBoundary } from "../vendor/hooks.js";
export { signal, computed, effect, batch, untracked, useSignal, useComputed, useSignalEffect } from "../vendor/signals.js";
