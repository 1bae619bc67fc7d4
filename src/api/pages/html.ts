import { html, raw } from 'hono/html';

/** Text that hono's html tag made: everything put into it was escaped. */
export type Html = ReturnType<typeof html>;

const STYLE = `
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1f24; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #e3e6ea; vertical-align: top }
td.number, th.number { text-align: right } td.name { white-space: nowrap } code, pre { font: 13px ui-monospace, monospace; overflow-wrap: anywhere }
.bad { color: #b00020 } .near { color: #9a5b00 } nav a { margin-right: 1rem } a { color: #0b57d0 }
.scroll { overflow-x: auto } pre { white-space: pre-wrap; padding: .6rem .8rem; border: 1px solid #e3e6ea; border-radius: 4px }
form { display: grid; grid-template-columns: 9rem 1fr; gap: .5rem 1rem; align-items: start } form > :last-child { grid-column: 2 }
textarea, input[type=text] { width: 100%; box-sizing: border-box; font: 13px ui-monospace, monospace; padding: .3rem }
button, select { font: inherit } form label { padding-top: .2rem } form span label { margin-right: 1rem }
#live { max-height: 24rem; overflow: auto }
@media (prefers-color-scheme: dark) { body { color: #dfe3e8; background: #14171a } a { color: #8ab4f8 } th, td, pre { border-color: #333a41 } .bad { color: #ff7b86 } .near { color: #f0b35a } }
`;

/** A whole page. `title` and `body` may hold anything: text is escaped, Html is not escaped again. */
export const page = (title: string, body: unknown): Html => html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>${raw(STYLE)}</style>
</head>
<body>
<nav><a href="/">weir</a><a href="/hosts">hosts</a><a href="/jetstream">jetstream</a></nav>
<h1>${title}</h1>
${body}
</body>
</html>
`;

/** An absolute time for people and machines; "never" for 0 and null. */
export const when = (atMs: number | null): string =>
  atMs === null || atMs <= 0 ? 'never' : new Date(atMs).toISOString().replace(/\.\d+Z$/, 'Z');

/** How long ago, or in how long, in words. */
export const ago = (atMs: number | null, nowMs: number): string => {
  if (atMs === null || atMs <= 0) return 'never';
  const seconds = Math.round(Math.abs(nowMs - atMs) / 1000);
  const [amount, unit] =
    seconds < 120
      ? [seconds, 's']
      : seconds < 7_200
        ? [Math.round(seconds / 60), 'min']
        : seconds < 172_800
          ? [Math.round(seconds / 3_600), 'h']
          : [Math.round(seconds / 86_400), 'days'];
  return nowMs >= atMs ? `${amount} ${unit} ago` : `in ${amount} ${unit}`;
};

/** 12,345 */
export const number = (value: number): string => value.toLocaleString('en-US');
