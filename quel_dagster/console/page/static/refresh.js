// Loads the page again every few seconds and exchanges its content, unless a person is writing or has opened details.
"use strict";
(() => {
  const wanted = document.querySelector('meta[name="quel-refresh"]');
  if (!wanted) return;
  const seconds = Number(wanted.content);
  const again = () => setTimeout(refresh, seconds * 1000);
  const refresh = async () => {
    const busy = document.hidden || document.querySelector("main :focus, main details[open]:not([data-open])");
    if (busy) return again();
    try {
      const answer = await fetch(location.href, { headers: { "X-Requested-With": "refresh" } });
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("content");
      if (!fresh) throw new Error("no content");
      document.getElementById("content").replaceWith(document.adoptNode(fresh));
      document.body.classList.remove("stale");
      if (!page.querySelector('meta[name="quel-refresh"]')) return;
    } catch {
      document.body.classList.add("stale");
    }
    again();
  };
  again();
})();
