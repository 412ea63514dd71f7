// What the pages are livelier with: times in the reader's own form, a log that follows its end, questions before something is deleted.
"use strict";
(() => {
  const own = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

  function times(root) {
    for (const element of root.querySelectorAll("time[datetime]:not([title])")) {
      const when = new Date(element.dateTime);
      if (Number.isNaN(when.getTime())) continue;
      element.title = element.textContent;
      element.textContent = own.format(when);
    }
  }

  function follow(log) {
    const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    let following = true;
    log.scrollTop = log.scrollHeight;
    log.addEventListener("scroll", () => { following = atEnd(); });
    new MutationObserver(() => { if (following) log.scrollTop = log.scrollHeight; }).observe(log, { childList: true, characterData: true, subtree: true });
  }

  function prepare(root) {
    times(root);
    for (const element of root.querySelectorAll("select[data-go]")) element.addEventListener("change", () => element.form.requestSubmit());
  }

  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.ask;
    if (question && !window.confirm(question)) event.preventDefault();
  }, true);
  document.addEventListener("DOMContentLoaded", () => {
    document.documentElement.classList.add("script");
    prepare(document);
    document.querySelectorAll("[data-follow]").forEach(follow);
    document.querySelector("[data-focus]")?.focus();
  });
  document.addEventListener("htmx:load", (event) => prepare(event.target));
})();
