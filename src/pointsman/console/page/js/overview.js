// All endpoints and backends at a glance.
import { html } from "./lib.js";
import { Heading } from "./parts.js";

export const OverviewPage = () => html`<${Heading} title="Overview" />`;
