// Names in tables are broken between their parts, where a line is too short for them.
addEventListener("DOMContentLoaded", () => {
  for (const code of document.querySelectorAll("article td code")) {
    const texts = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) found.push(texts.currentNode);
    for (const text of found) {
      const parts = text.data.split(/(?<=[_./(,=:-])(?=\w)|(?<=[a-z])(?=[A-Z])/);
      text.replaceWith(...parts.flatMap((part, place) => (place ? [document.createElement("wbr"), part] : [part])));
    }
  }
});

// What scrolls can be reached by the keyboard.
addEventListener("load", () => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
});
