// The form for a token, where the page was opened without a link that has one.
import { html, useState } from "./lib.js";
import { signedOut, signIn } from "./state.js";
import { Button, Field, Notice } from "./parts.js";

export const LoginPage = () => {
  const [value, setValue] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (value.trim()) signIn(value.trim());
  };
  return html`<main class="login">
    <form onSubmit=${submit}>
      <h1>Pointsman</h1>
      ${signedOut.value && html`<${Notice} kind="warn" title="Not signed in"><p>${signedOut.value}</p><//>`}
      <${Field} label="Token" type="password" value=${value} onInput=${(e) => setValue(e.target.value)} autofocus hint="It stays in this tab, for 12 hours." />
      <${Button} kind="primary" type="submit" disabled=${!value.trim()}>Sign in<//>
      <p class="hint">A link that signs you in, on the machine where it runs:<br /><code>pointsman console</code></p>
    </form>
  </main>`;
};
