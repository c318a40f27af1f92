import { html } from "./lib.js";
import { Heading } from "./parts.js";

export const HistoryPage = ({ name }) => html`<${Heading} title=${name || "History"} />`;
