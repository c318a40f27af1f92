import { html } from "./lib.js";
import { Heading } from "./parts.js";

export const LogsPage = ({ name }) => html`<${Heading} title=${name || "Logs"} />`;
