// Numbers, shares and times as text. Units are named by the head of a column or a label, not here, except for shares.
const NONE = "–";

const digits = (most) => new Intl.NumberFormat("en", { maximumFractionDigits: most, minimumFractionDigits: most });
const BY_DIGITS = [0, 1, 2, 3].map(digits);
const fixed = (value, most) => BY_DIGITS[most].format(value);

/** A count: `12,345`. */
export const count = (value) => (value == null ? NONE : fixed(value, 0));

/** Per second: `0`, `0.4`, `12.3`, `412`, `12,345`. */
export const rate = (value) =>
  value == null ? NONE : value === 0 ? "0" : fixed(value, value < 9.95 ? (value < 0.095 ? 2 : 1) : 0);

/** Milliseconds: `0.42`, `8.1`, `31`, `1,204`. */
export const ms = (value) => (value == null ? NONE : value === 0 ? "0" : fixed(value, value < 0.995 ? 2 : value < 9.95 ? 1 : 0));

/** A share of 0 to 1, as an error rate: `0%`, `0.1%`, `12%`. Never 0% for what is more. */
export const percent = (share) => {
  if (share == null) return NONE;
  const value = share * 100;
  if (value === 0 || value === 100) return `${value}%`;
  if (value < 0.05) return "<0.1%";
  if (value > 99.95) return ">99.9%";
  return `${fixed(value, value < 9.95 || value > 99.05 ? 1 : 0)}%`;
};

/** A share of traffic, as it was set: `5%`, `33.3%`, `0.05%`. */
export const share = (value) => (value == null ? NONE : value > 0 && value < 1e-5 ? "<0.001%" : `${Number((value * 100).toPrecision(3))}%`);

/** Seconds as `45 s`, `12 min`, `3.5 h`, `2 d`. */
export function span(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Number((seconds / 3600).toFixed(1))} h`;
  return `${Math.round(seconds / 86400)} d`;
}

const today = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const other = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** A time of day, with the date where that is not today. `when`: ISO text, or seconds since 1970. */
export function clock(when) {
  if (when == null || when === "") return NONE;
  const date = new Date(typeof when === "number" ? when * 1000 : when);
  return (date.toDateString() === new Date().toDateString() ? today : other).format(date);
}

const minutes = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

/** Hours and minutes of a time in seconds since 1970. */
export const minute = (when) => minutes.format(when * 1000);

/** `3 min ago`. */
export function ago(when) {
  const seconds = (Date.now() - new Date(typeof when === "number" ? when * 1000 : when)) / 1000;
  return seconds < 2 ? "just now" : `${span(seconds)} ago`;
}

/** `1 endpoint`, `3 endpoints`. */
export const some = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Words of the controller, with shares written as everywhere here. */
export const words = (text) => text.replace(/(\d) %/g, "$1%");
