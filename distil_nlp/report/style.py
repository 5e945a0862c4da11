"""The look of the report, light and dark; colours after Okabe & Ito, told apart by the colour-blind too."""

from __future__ import annotations

_LIGHT = """--paper:#fff;--card:#f6f7f9;--ink:#16191d;--soft:#59636e;--rule:#dfe3e8;--teacher:#4d5661;
--student:#0072b2;--control:#d55e00;--export:#00845f;--other:#8f4f86;--on:#fff;--none:#eceff2;
--s0:#16191d;--s1:#0072b2;--s2:#d55e00;--s3:#00845f;--s4:#b0568f;--s5:#b57900;--s6:#3f8fc4;"""

_DARK = """--paper:#14171b;--card:#1c2127;--ink:#e8ebee;--soft:#9aa5b1;--rule:#323941;--teacher:#b9c2cc;
--student:#56b4e9;--control:#f0944d;--export:#35c89b;--other:#d79ccb;--on:#14171b;--none:#262c33;
--s0:#e8ebee;--s1:#56b4e9;--s2:#f0944d;--s3:#35c89b;--s4:#dd95c3;--s5:#e6b422;--s6:#9ecbe8;"""

_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"

_SHAPES = (
    """
svg text{font:14px """
    + _FONT
    + """;fill:var(--ink)}
svg .tick,svg text.value,svg tspan.value{fill:var(--soft)}
svg .tick{font-size:13px}
svg .name{font-weight:600}
svg text.label{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
svg text.in{font-size:13px;font-weight:600;fill:var(--on)}
svg text.in.k-none{fill:var(--soft);font-weight:400}
.paper{fill:var(--paper)}
.grid{stroke:var(--rule)}
.axis{stroke:var(--soft)}
.zero{stroke:var(--ink);stroke-width:1.5}
.reference{stroke:var(--teacher);stroke-dasharray:2 5;stroke-linecap:round;stroke-width:1.5}
.leader{stroke:var(--soft);stroke-width:1}
.link{stroke:var(--student);stroke-width:2.5;stroke-linecap:round}
.mark{stroke:var(--paper);stroke-width:1.5;fill:var(--k)}
.whisker{stroke:var(--k);stroke-width:1.5;stroke-opacity:.65}
.whisker.wide{stroke-width:3;stroke-linecap:round}
.bar,.block{fill:var(--k)}
.line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}
.dot{fill:var(--c)}
.k-teacher{--k:var(--teacher)}.k-student{--k:var(--student)}.k-control{--k:var(--control)}
.k-export{--k:var(--export)}.k-other{--k:var(--other)}.k-none{--k:var(--none)}
.s-0{--c:var(--s0)}.line.s-0{stroke-width:2.6}.s-1{--c:var(--s1)}.s-2{--c:var(--s2)}.s-3{--c:var(--s3)}
.s-4{--c:var(--s4)}.s-5{--c:var(--s5)}.s-6{--c:var(--s6)}
.line.s-2{stroke-dasharray:7 3}.line.s-3{stroke-dasharray:2 3}.line.s-4{stroke-dasharray:9 3 2 3}
.line.s-5{stroke-dasharray:4 2}.line.s-6{stroke-dasharray:12 4}
"""
)

SVG_STYLE = f"svg{{{_LIGHT}}}@media(prefers-color-scheme:dark){{svg{{{_DARK}}}}}{_SHAPES}"
"""For a picture that is a file by itself."""

PAGE_STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media(prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 {_FONT};
-webkit-text-size-adjust:100%;text-size-adjust:100%}}
main,header,footer{{max-width:1008px;margin:0 auto;padding:0 24px}}
header{{padding-top:48px}}
.kicker{{margin:0;color:var(--soft);font-size:13px;font-weight:600;letter-spacing:.08em;text-transform:uppercase}}
h1{{margin:4px 0 6px;font-size:34px;line-height:1.2;letter-spacing:-.015em;overflow-wrap:anywhere}}
h2{{margin:52px 0 6px;font-size:21px;line-height:1.3;letter-spacing:-.005em}}
.about,.note{{margin:0 0 14px;color:var(--soft);max-width:52em}}
.note{{font-size:14.5px}}
.tiles{{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:14px;
margin:28px 0 24px;padding:0}}
.tile{{background:var(--card);border-radius:12px;padding:16px 18px}}
.tile dt{{color:var(--soft);font-size:14px}}
.tile dd{{margin:0}}
.tile .figure{{font-size:32px;font-weight:650;line-height:1.25;letter-spacing:-.02em;
font-variant-numeric:tabular-nums}}
.tile .of{{color:var(--soft);font-size:14px;line-height:1.4}}
.verdict p{{margin:0 0 8px;max-width:50em}}
.scroll{{overflow-x:auto}}
table{{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:15px}}
th,td{{padding:9px 8px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}}
th{{color:var(--soft);font-size:13.5px;font-weight:600;vertical-align:bottom}}
th:first-child,td:first-child{{text-align:left;padding-left:0}}
td:first-child,tbody th{{color:var(--ink);font-weight:600;font-size:15px}}
tfoot td{{border-bottom:0;font-weight:600}}
td.text,th.text{{text-align:left}}
.swatch{{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:9px;background:var(--k)}}
.track,.share{{display:block;height:10px;border-radius:3px}}
.track{{width:240px}}
.share{{background:var(--student);min-width:2px}}
figure{{margin:0}}
figure svg{{display:block;width:100%;min-width:720px;height:auto}}
.facts{{display:grid;grid-template-columns:max-content 1fr;gap:6px 24px;margin:0;font-size:15px}}
.facts dt{{color:var(--soft)}}
.facts dd{{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}}
details{{margin-top:10px}}
summary{{cursor:pointer;color:var(--soft);font-size:14.5px}}
footer{{margin-top:56px;padding-top:18px;padding-bottom:48px;color:var(--soft);font-size:14px}}
footer p{{border-top:1px solid var(--rule);padding-top:18px;margin:0}}
@media print{{h2{{break-after:avoid}}figure,table{{break-inside:avoid}}}}
{_SHAPES}"""
