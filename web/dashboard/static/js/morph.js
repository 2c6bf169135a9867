// Makes an element like a newer version of itself and leaves alone what is the same: focus, what was typed, what was
// opened and where it was scrolled stay. [data-keep] subtrees belong to scripts and are never touched; they have a key.

export function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.hasAttribute("data-keep")) return;
  morphAttributes(old, fresh);
  if (timeOf(old) === null || timeOf(old) !== timeOf(fresh)) morphChildren(old, fresh);
}

// A time's text is ours, in the reader's words, as long as it is the same time.
function timeOf(element) {
  return element.getAttribute("datetime") ?? element.getAttribute("data-since");
}

function morphAttributes(old, fresh) {
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    const kept = (name === "title" && timeOf(old) !== null) || (name === "open" && old.hasAttribute("data-keep-open"));
    if (!fresh.hasAttribute(name) && !kept) old.removeAttribute(name);
  }
}

function morphChildren(old, fresh) {
  const keyed = new Map();
  for (const child of old.children) {
    const key = keyOf(child);
    if (key !== null) keyed.set(key, child);
  }
  const awaited = new Set([...fresh.children].map(keyOf));
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = keyOf(wanted);
    const found = key !== null ? keyed.get(key) : sameKind(place, wanted) ? place : null;
    if (found) {
      keyed.delete(key);
      // What is moved forgets its focus and where it was scrolled: rather what stands before it goes, if it goes anyway.
      while (place && found !== place && !awaited.has(keyOf(place) ?? undefined)) place = removed(place);
      if (found === place) place = place.nextSibling;
      else move(old, found, place);
      morph(found, wanted);
    } else {
      old.insertBefore(document.importNode(wanted, true), place);
    }
  }
  while (place) place = removed(place);
}

function removed(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function move(parent, node, place) {
  if (parent.moveBefore) parent.moveBefore(node, place);
  else parent.insertBefore(node, place);
}

function keyOf(node) {
  if (node?.nodeType !== Node.ELEMENT_NODE) return null;
  const key = node.dataset?.key ?? node.id;
  return key ? `${node.nodeName}:${key}` : null;
}

function sameKind(old, wanted) {
  if (old === null || old.nodeName !== wanted.nodeName || keyOf(old) !== null) return false;
  return old.nodeType !== Node.ELEMENT_NODE || !(old.hasAttribute("data-keep") || wanted.hasAttribute("data-keep"));
}
