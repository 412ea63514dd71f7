// What of the page a screen reader cannot name, ids that lead nowhere, and styles or scripts that are not in files of their own.
() => {
  const wrong = [], seen = (element) => element.checkVisibility({ visibilityProperty: true });
  const name = (element) => (element.getAttribute("aria-label") || [...(element.labels || [])].map((l) => l.textContent).join(" ")
    || (element.getAttribute("aria-labelledby") || "").split(" ").map((id) => document.getElementById(id)?.textContent || "").join("")
    || element.textContent || element.getAttribute("title") || element.getAttribute("alt") || "").trim();
  for (const element of document.querySelectorAll("a, button, input:not([type=hidden]), select, textarea, iframe, meter, progress, svg[role=img], [role=log]"))
    if (seen(element) && !name(element)) wrong.push("no name: " + element.outerHTML.slice(0, 120));
  for (const image of document.images) if (!image.hasAttribute("alt")) wrong.push("no alt: " + image.src);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  ids.filter((id, at) => ids.indexOf(id) !== at).forEach((id) => wrong.push("twice: " + id));
  for (const element of document.querySelectorAll("[aria-describedby], [aria-labelledby], [list], label[for]"))
    for (const id of ["aria-describedby", "aria-labelledby", "list", "for"].flatMap((a) => (element.getAttribute(a) || "").split(" ")).filter(Boolean))
      if (!document.getElementById(id)) wrong.push("points nowhere: " + id);
  for (const landmark of ["main", "header", "footer"]) if (document.querySelectorAll("body > " + landmark).length !== 1) wrong.push("landmark " + landmark);
  if (document.querySelectorAll("h1").length !== 1) wrong.push("h1");
  let level = 1;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const now = Number(heading.tagName[1]);
    if (now > level + 1) wrong.push("skipped a level: " + heading.textContent);
    level = now;
  }
  if (!document.documentElement.lang || !document.title) wrong.push("lang or title");
  for (const cell of document.querySelectorAll("thead th")) if (!cell.hasAttribute("scope")) wrong.push("no scope: " + cell.textContent);
  for (const element of document.querySelectorAll("[style], [onclick], style, script:not([src])"))
    wrong.push("inline style or script: " + element.outerHTML.slice(0, 120));
  return wrong;
}
