// Mounts the page: signs in, follows the live stream, and shows the page that the address names.
import { html, render, useErrorBoundary } from "./lib.js";
import { follow } from "./api.js";
import { keepFocus } from "./focus.js";
import { own, route, said, signedOut, status, token } from "./state.js";
import { Empty, Failed, Heading, Loading } from "./parts.js";
import { Header } from "./header.js";
import { LoginPage } from "./login.js";
import { OverviewPage } from "./overview.js";
import { EndpointPage } from "./endpoint.js";
import { BackendPage } from "./backend.js";
import { HistoryPage } from "./history.js";
import { LogsPage } from "./logs.js";
import { ConfigPage } from "./config.js";

const PAGES = {
  overview: OverviewPage,
  endpoint: EndpointPage,
  backend: BackendPage,
  history: HistoryPage,
  logs: LogsPage,
  config: ConfigPage,
};

const Body = () => {
  const { page, name, query } = route.value;
  const [error, reset] = useErrorBoundary();
  const Page = own(PAGES, page);
  if (error) return html`<${Failed} error=${{ title: "This page cannot be drawn", message: String(error) }} again=${reset} />`;
  if (!Page) return html`<${Heading} title="Not found" /><${Empty} title="There is no such page"><a href="#/">To the overview</a><//>`;
  if (/^\.\.?$/.test(name)) return html`<${Heading} title=${name} /><${Empty} title="This name cannot be part of an address">Use the command line, or the Python client.<//>`;
  if (!status.value) return html`<${Loading} what="the instance" lines=${6} />`;
  return html`<${Page} key=${page + name} name=${name} query=${query} />`;
};

const App = () =>
  token.value
    ? html`<a class="skip" href="#main" onClick=${(e) => (e.preventDefault(), document.getElementById("main").focus())}>To the content</a>
        <${Header} />
        <main id="main" tabindex="-1"><${Body} key=${route.value.page + route.value.name} /></main>
        <div class="unseen" role="status" aria-live="polite">${said.value}</div>`
    : html`<${LoginPage} key=${signedOut.value} />`;

document.querySelector("noscript")?.remove();
render(html`<${App} />`, document.body);
keepFocus();
follow();
