import { html } from "./lib.js";
import { Heading } from "./parts.js";

export const ConfigPage = ({ name }) => html`<${Heading} title=${name || "Config"} />`;
