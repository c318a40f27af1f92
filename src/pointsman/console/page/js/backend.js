import { html } from "./lib.js";
import { Heading } from "./parts.js";

export const BackendPage = ({ name }) => html`<${Heading} title=${name || "Backend"} />`;
