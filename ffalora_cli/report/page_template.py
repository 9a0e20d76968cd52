"""The HTML and CSS of a report: no script, no font, no image from anywhere."""

# Okabe and Ito's colours (``style.PENS``) darkened for white and lightened for black, so that
# every line has a contrast of at least 3 to 1 with what is behind it.
STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --ink: #1b1f24; --soft: #57606a;
  --rule: #d0d7de; --link: #0b5cad; --shade: #f4f6f8;
  --pen0: #0072b2; --pen1: #c95800; --pen2: #00845f; --pen3: #b2588c; --pen4: #a87300;
  --pen5: #2f86bb; --pen6: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --ink: #e6e8eb; --soft: #a5adb7;
  --rule: #3a414a; --link: #7db7f0; --shade: #1d2228;
  --pen0: #4aa3dd; --pen1: #ee7d2b; --pen2: #22b98b; --pen3: #d991b9; --pen4: #e69f00;
  --pen5: #8ccbf2; --pen6: #9a9a9a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 1.2rem 1rem 3rem; background: var(--back);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; }
.soft, figcaption, dt, .notes { color: var(--soft); font-size: .875rem; }
.notes { padding-left: 1.1rem; }
.wide { overflow-x: auto; border: 1px solid var(--rule); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; background: var(--shade); }
tbody tr { border-top: 1px solid var(--rule); }
.word { text-align: left; }
.run { white-space: normal; min-width: 11rem; }
.figures { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%,
  25rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; max-width: 36rem; height: auto; }
details { border: 1px solid var(--rule); border-radius: 6px; margin: .5rem 0;
  padding: .5rem .8rem; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: 6.5rem minmax(0, 1fr); gap: .25rem .8rem;
  margin: .6rem 0; }
dd { margin: 0; }
pre { margin: .5rem 0; padding: .6rem .8rem; background: var(--shade); border-radius: 6px;
  font-size: .85rem; white-space: pre-wrap; }
@media (max-width: 32rem) { dl { grid-template-columns: minmax(0, 1fr); }
  dd { margin-bottom: .4rem; } }
@media print { details > * { display: block; } }
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{ page.title }}</title>
<style>{{ style }}</style>
</head>
<body>
{%- macro table(grid) %}
<div class="wide" tabindex="0" role="region" aria-label="{{ grid.name }}"><table>
<thead><tr>{% for cell in grid.head %}<th scope="col"
{%- if loop.index0 < grid.words %} class="word"{% endif %}>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in grid.rows %}
<tr>{% for cell in row %}<td
{%- if loop.index0 < grid.words %} class="word{% if grid.long %} run{% endif %}"{% endif %}>
{{- cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>
{%- endmacro %}
{%- macro facts(pairs) %}
<dl>{% for name, text in pairs %}<dt>{{ name }}</dt><dd>{{ text }}</dd>{% endfor %}</dl>
{%- endmacro %}
{%- macro notes(lines) %}
{%- if lines %}<ul class="notes">{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>
{%- endif %}
{%- endmacro %}
<header><h1>{{ page.title }}</h1><p class="soft">{{ page.about }}</p></header>
<main>
<h2>Results</h2>
{{ table(page.results) }}
{{ notes(page.result_notes) }}
<h2>Pictures</h2>
<div class="figures">{% for figure in page.figures %}
<figure role="group" aria-label="{{ figure.words }}">{{ figure.svg|safe }}
<figcaption>{{ figure.words }}{{ notes(figure.notes) }}</figcaption></figure>{% endfor %}
</div>
{{ notes(page.figure_notes) }}
<h2>Privacy</h2>
{% for run in page.runs %}<details{% if loop.first %} open{% endif %}>
<summary><strong>{{ run.name }}</strong>: {{ run.claim }}</summary>
{% if run.privacy %}{{ facts(run.privacy) }}
<p class="soft">Outside the guarantee:</p>{{ notes(run.outside) }}{% endif %}
</details>{% endfor %}
<h2>What differs</h2>
{% if page.differences.rows %}{{ table(page.differences) }}
{% else %}<p>Nothing that can change a result.</p>{% endif %}
<h2>Bytes</h2>
{{ table(page.bytes) }}
{{ notes(page.byte_notes) }}
<h2>Again</h2>
<p>The commands that made these runs, as they were typed, folders left out:</p>
{% for run in page.runs %}<pre>{{ run.command }}</pre>{% endfor %}
<h2>Where the numbers come from</h2>
{% for run in page.runs %}<details><summary><strong>{{ run.name }}</strong>: {{ run.state }}
</summary>{{ facts(run.provenance) }}</details>{% endfor %}
</main>
<footer><p class="soft">{{ page.foot }}</p></footer>
</body>
</html>
"""
