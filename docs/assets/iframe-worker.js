// A site that is read from a disk must not start workers, so its search would find nothing: there this takes the place
// of Worker, and runs the script in a hidden frame. From a server it does nothing.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.onerror = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.documentElement.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => this.tell(this, new MessageEvent("message", { data }));
      inner.importScripts = (...urls) =>
        urls.reduce((before, each) => before.then(() => this.load(new URL(each, url))), Promise.resolve());
      this.ready = this.load(new URL(url, location)).catch(() => this.tell(this, new ErrorEvent("error", { cancelable: true })));
    }

    load(url) {
      return new Promise((done, failed) => {
        const script = this.frame.contentDocument.createElement("script");
        Object.assign(script, { src: url, onload: done, onerror: failed });
        this.frame.contentDocument.body.append(script);
      });
    }

    // A frame has calls what its window's onmessage is; an object of ours has to call its own.
    tell(target, event) {
      target.dispatchEvent(event);
      if (target === this) this[`on${event.type}`]?.(event);
    }

    postMessage(data) {
      this.ready.then(() => {
        const inner = this.frame.contentWindow;
        if (inner) this.tell(inner, new MessageEvent("message", { data }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
