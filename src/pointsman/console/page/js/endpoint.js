import { html } from "./lib.js";
import { Heading } from "./parts.js";

export const EndpointPage = ({ name }) => html`<${Heading} title=${name || "Endpoint"} />`;
