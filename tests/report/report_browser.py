"""A real browser for the tests of this folder. In: nothing. Out: where it is, window sizes, what it is asked."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
START_MS, PAGE_LOAD_MS = 120_000, 60_000  # on a busy machine
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}

# The contrast of every visible text with its ground, as WCAG counts it, and the element's beginning.
CONTRAST = """() => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = node => {
    const color = channels(getComputedStyle(node).backgroundColor);
    return color.length === 4 && color[3] === 0 ? ground(node.parentElement) : color;
  };
  return [...document.querySelectorAll('main *, #tip *')]
    .filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()))
    .filter(node => node.checkVisibility() && node.nodeName !== 'OPTION')
    .map(node => {
      const [a, b] = [light(channels(getComputedStyle(node).color)), light(ground(node))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.outerHTML.slice(0, 80)];
    });
}"""
