// In: the start, the limits and the machine's rates that Python wrote. Out: every form of the convolution, counted as it is moved.
"use strict";
(() => {
  const given = JSON.parse(document.querySelector("#given").textContent);
  const one = (selector, root = document) => root.querySelector(selector);

  // --- counting: whole numbers below 2^53, the same as separable.cost.count gives for the chains of separable.factor ---
  const conv = (cIn, cOut, kernel, size, stride = [1, 1], groups = 1) => {
    const out = size.map((length, axis) => Math.ceil(length / stride[axis]));
    const parameters = cOut * (cIn / groups) * kernel[0] * kernel[1];
    const moved = cIn * size[0] * size[1] + cOut * out[0] * out[1];
    return { cIn, cOut, kernel, size, out, groups, parameters, macs: parameters * out[0] * out[1], bytes: 4 * (parameters + moved) };
  };
  const geometry = ({ kernel: k, size, stride: s, c_in: cIn, c_out: cOut }) => {
    const map = [size, size];
    return { k, cIn, cOut, map, stride: [s, s], square: [k, k], out: map.map((length) => Math.ceil(length / s)), s };
  };
  const noSpace = (s) => s.kernel === 1 && ["A kernel of one tap has no space to take apart.", "1×1 卷积核没有空间可拆。"];
  const oneChannel = ["There is only one channel: none to spare.", "只有一个通道，无可节省。"];
  const depthwise = (s, [terms]) => {
    const { cIn, cOut, map, stride, square, out } = geometry(s);
    return [conv(cIn, cIn * terms, square, map, stride, cIn), conv(cIn * terms, cOut, [1, 1], out)];
  };
  const taps = (s) => Math.min(s.kernel ** 2, s.c_out);
  const forms = [
    {
      name: "dense", words: ["dense", "普通卷积"], full: () => [], wanted: () => [], refuses: () => false,
      chain: (s) => { const g = geometry(s); return [conv(g.cIn, g.cOut, g.square, g.map, g.stride)]; },
    },
    {
      name: "depthwise separable", words: ["depthwise separable", "深度可分离"],
      full: (s) => [taps(s)], wanted: () => [1], refuses: noSpace, chain: depthwise, plain: true,
    },
    {
      name: "spatial", words: ["spatial, rank", "空间分解，秩"],
      full: (s) => [Math.min(s.c_in * s.kernel, s.kernel * s.c_out)], wanted: (s) => [s.rank],
      refuses: (s) => s.kernel === 1 && ["A 1×1 kernel has no second axis to split off.", "1×1 卷积核没有第二个轴可拆。"],
      chain: (s, [rank]) => {
        const { k, cIn, cOut, map, out, s: stride } = geometry(s);
        return [conv(cIn, rank, [k, 1], map, [stride, 1]), conv(rank, cOut, [1, k], [out[0], map[1]], [1, stride])];
      },
    },
    {
      name: "depthwise", words: ["depthwise, terms", "深度分解，项数"],
      full: (s) => [taps(s)], wanted: (s) => [s.terms], refuses: noSpace, chain: depthwise,
    },
    {
      name: "channel", words: ["channel, rank", "通道分解，秩"],
      full: (s) => [Math.min(s.c_out, s.c_in * s.kernel ** 2)], wanted: (s) => [s.rank],
      refuses: (s) => Math.min(s.c_out, s.c_in * s.kernel ** 2) === 1 && oneChannel,
      chain: (s, [rank]) => {
        const { cIn, cOut, map, stride, square, out } = geometry(s);
        return [conv(cIn, rank, square, map, stride), conv(rank, cOut, [1, 1], out)];
      },
    },
    {
      name: "tucker", words: ["tucker, ranks", "Tucker 分解，秩"],
      full: (s) => [Math.min(s.c_in, s.c_out * s.kernel ** 2), Math.min(s.c_out, s.c_in * s.kernel ** 2)],
      wanted: (s) => [s.rank, s.rank],
      refuses: (s) => noSpace(s) || (Math.min(s.c_in, s.c_out) === 1 && oneChannel),
      chain: (s, [before, behind]) => {
        const { cIn, cOut, map, stride, square, out } = geometry(s);
        return [conv(cIn, before, [1, 1], map), conv(before, behind, square, map, stride), conv(behind, cOut, [1, 1], out)];
      },
    },
  ];
  const sum = (numbers) => numbers.reduce((total, value) => total + value, 0);
  const written = (form, setting, rates) => {
    const full = form.full(setting);
    const rank = form.wanted(setting).map((value, i) => Math.min(value, full[i]));
    const chain = form.chain(setting, rank).map((pass) => {
      const [compute, memory] = [pass.macs / rates.fma, pass.bytes / rates.bandwidth];
      return { ...pass, seconds: Math.max(compute, memory), bound: compute >= memory ? "compute" : "memory" };
    });
    const total = (key) => sum(chain.map((pass) => pass[key]));
    const exact = full.length > 0 && !form.plain && rank.every((value, i) => value === full[i]);
    return { form, rank, exact, chain, parameters: total("parameters"), macs: total("macs"), bytes: total("bytes"), seconds: total("seconds") };
  };

  // --- words and numbers ---
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const say = (en, zh) => [make("span", { lang: "en" }, en), make("span", { lang: "zh" }, zh)];
  const whole = (value) => value.toLocaleString("en-US");
  const times = (value) => `${value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2)}×`;
  const duration = (seconds) => {
    const [unit, scale] = [["s", 1], ["ms", 1e-3], ["µs", 1e-6]].find(([, size]) => seconds >= 0.9995 * size) ?? ["ns", 1e-9];
    return `${(seconds / scale).toPrecision(3).replace(/^(\d{3})\.$/, "$1")}\u202f${unit}`;
  };
  const data = (key, value, text) => {
    const node = make("data", { value: String(value), textContent: text });
    node.dataset.key = key;
    return node;
  };
  const cell = (key, value, text, words = ["", ""], kind = "") => {
    const node = make("td", { className: `num ${kind}` }, data(key, value, text));
    Object.assign(node.dataset, { en: words[0], zh: words[1] });
    return node;
  };
  const label = (row) => {
    const rank = row.form.plain || !row.rank.length ? "" : ` ${row.rank.join("×")}`;
    return say(...row.form.words.map((words) => words + rank));
  };
  const shape = (pass) => `${pass.cIn}→${pass.cOut} ${pass.kernel.join("×")}`;
  const passWords = (chain) => {
    const named = (en) => chain.map((pass) => shape(pass) + (pass.groups > 1 ? (en ? " depthwise" : " 逐通道") : ""));
    return make("small", {}, ...say(named(true).join(", "), named(false).join("，")));
  };

  // --- what is drawn ---
  const SVG = "http://www.w3.org/2000/svg";
  const drawn = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    return node;
  };
  const scaleOf = (gains) => {
    const [low, high] = [Math.min(0.8, ...gains), Math.max(2, ...gains)];
    const every = Math.ceil(Math.log2(high / low) / 6);
    const ticks = Array.from({ length: 41 }, (_, i) => 2 ** ((i - 20) * every)).filter((tick) => tick >= low && tick <= high);
    return { ticks, at: (value) => 4 + 92 * (Math.log(value / low) / Math.log(high / low)) };
  };
  const grid = ({ ticks, at }) => {
    const lines = ticks.map((tick) => `linear-gradient(var(--${tick === 1 ? "one" : "rule"}) 0 0) ${at(tick)}% 0/1px 100% no-repeat`);
    return [...lines, `linear-gradient(var(--wash) 0 0) 0 0/${at(1)}% 100% no-repeat`].join(",");
  };
  const dumbbell = (scale, counted, predicted) => {
    const svg = drawn("svg", { class: "plot", "aria-hidden": "true" });
    const [from, to] = [scale.at(counted), scale.at(predicted)];
    svg.append(drawn("line", { class: "bar", x1: `${from}%`, x2: `${to}%`, y1: "50%", y2: "50%", "stroke-width": 5 }));
    [["#counted", from], ["#predicted", to]].forEach(([href, x]) => svg.append(drawn("use", { href, x: `${x}%`, y: "50%" })));
    return svg;
  };
  const rowOf = (row, dense, scale) => {
    const gain = { counted: dense.macs / row.macs, predicted: dense.seconds / row.seconds };
    const exact = row.exact ? [make("span", { className: "tag" }, ...say("exact", "精确"))] : [];
    const node = make("tr", {},
      make("th", { scope: "row" }, ...label(row), ...exact, passWords(row.chain)),
      make("td", { className: "chart" }, dumbbell(scale, gain.counted, gain.predicted)),
      cell("counted", gain.counted, times(gain.counted), ["fewer MACs", "乘加节省"], "counted"),
      cell("predicted", gain.predicted, times(gain.predicted), ["speed-up", "预测加速"], "gain"),
      cell("parameters", row.parameters, whole(row.parameters), ["parameters", "参数量"]),
      cell("macs", row.macs, whole(row.macs), ["MACs", "乘加次数"]),
      cell("bytes", row.bytes, whole(row.bytes), ["bytes", "字节"]));
    node.dataset.form = row.form.name;
    return node;
  };
  const absent = ({ form, reason }) => {
    const node = make("tr", {}, make("th", { scope: "row" }, ...say(...form.words.map((words) => words.split(/[,，]/)[0]))));
    node.append(make("td", { className: "none", colSpan: 6 }, ...say(...reason)));
    node.dataset.refused = form.name;
    return node;
  };
  const barOf = (row, longest) => {
    const parts = row.chain.map((pass) => {
      const part = make("i", { className: pass.bound, title: `${shape(pass)} · ${duration(pass.seconds)}` });
      part.style.width = `${(100 * pass.seconds) / row.seconds}%`;
      return part;
    });
    const wait = make("span", { className: "wait" }, ...parts);
    wait.style.flexBasis = `${(82 * row.seconds) / longest}%`;
    return make("li", {}, make("span", {}, ...label(row)), make("span", { className: "bars" }, wait, data("seconds", row.seconds, duration(row.seconds))));
  };
  const passesOf = (row) => row.chain.map((pass) => make("tr", {},
    make("th", { scope: "row" }, ...label(row)),
    make("td", {}, `${shape(pass)}${pass.groups > 1 ? ` g=${pass.groups}` : ""}, ${pass.size.join("×")} → ${pass.out.join("×")}`),
    ...["parameters", "macs", "bytes"].map((key) => cell(key, pass[key], whole(pass[key]))),
    cell("density", pass.macs / pass.bytes, (pass.macs / pass.bytes).toPrecision(3)),
    cell("seconds", pass.seconds, duration(pass.seconds)),
    make("td", {}, ...(pass.bound === "compute" ? say("arithmetic", "算力") : say("memory", "内存带宽")))));
  const leadOf = (rows, setting) => {
    const [dense, ...rest] = rows;
    const best = rest.reduce((a, b) => (b.seconds < a.seconds ? b : a), dense);
    const { k, cIn, cOut, map } = geometry(setting);
    const what = `${k}×${k}, ${cIn}→${cOut}, ${map.join("×")}`;
    if (best === dense) return say(`${what}: no form is predicted to be faster than the plain convolution.`, `${what}：预测没有哪种形式比普通卷积更快。`);
    const [saved, gain] = [times(dense.macs / best.macs), times(dense.seconds / best.seconds)];
    const [en, zh] = best.form.words.map((words) => `${words}${best.form.plain ? "" : ` ${best.rank.join("×")}`}`);
    return say(
      `${what}: written as ${en}, it needs ${saved} fewer MACs and can be at most ${gain} as fast on this machine.`,
      `${what}：写成“${zh}”，乘加次数减少到 1/${saved.slice(0, -1)}，在这台机器上最多快到 ${gain.slice(0, -1)} 倍。`,
    );
  };

  // --- state: seven whole numbers and two rates ---
  const CHANNELS = [1, 2, 3, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 960, 1024, 1280, 1536, 2048, 3072, 4096];
  const SLIDERS = [
    ["kernel", ["kernel k×k", "卷积核 k×k"], [1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 21, 31]],
    ["c_in", ["channels in", "输入通道"], CHANNELS],
    ["c_out", ["channels out", "输出通道"], CHANNELS],
    ["size", ["map, height = width", "特征图边长"], [1, 2, 3, 4, 5, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 299, 320, 384, 448, 512]],
    ["stride", ["stride", "步幅"], [1, 2, 3, 4, 5, 6, 7, 8]],
    ["rank", ["rank r", "秩 r"], CHANNELS],
    ["terms", ["terms T", "项数 T"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 20, 25, 36, 49, 81, 121, 225, 441, 961]],
  ];
  const start = { ...given.setting };
  const rates = { fma: given.machine.fma_per_s, bandwidth: given.machine.bytes_per_s };
  const setting = { ...start };
  new URLSearchParams(location.hash.slice(1)).forEach((text, key) => {
    const value = Number(text);
    if (key in start && Number.isInteger(value) && value >= 1 && value <= given.most[key]) setting[key] = value;
  });

  const show = () => {
    const rows = [];
    const gone = [];
    forms.forEach((form) => {
      const reason = form.refuses(setting);
      if (reason) gone.push({ form, reason });
      else rows.push(written(form, setting, rates));
    });
    const dense = rows[0];
    const scale = scaleOf(rows.flatMap((row) => [dense.macs / row.macs, dense.seconds / row.seconds]));
    one("#forms").style.setProperty("--grid", grid(scale));
    one("#forms .axis").replaceChildren(...scale.ticks.map((tick) => {
      const mark = make("span", {}, `${Number(tick.toPrecision(3))}×`);
      mark.style.left = `${scale.at(tick)}%`;
      return mark;
    }));
    one("#forms tbody").replaceChildren(...rows.map((row) => rowOf(row, dense, scale)), ...gone.map(absent));
    const longest = Math.max(...rows.map((row) => row.seconds));
    one("#time").replaceChildren(...rows.map((row) => barOf(row, longest)));
    one("#passes tbody").replaceChildren(...rows.flatMap(passesOf));
    one("#lead").replaceChildren(...leadOf(rows, setting));
    const ridge = (rates.fma / rates.bandwidth).toPrecision(3);
    one("#balance").replaceChildren(...say(`Below ${ridge} MACs a byte, memory binds.`, `每字节乘加次数低于 ${ridge} 时，受内存带宽限制。`));
    history.replaceState(null, "", `#${new URLSearchParams(setting)}`);
  };

  // --- controls: a slider over useful values, a field for any ---
  const nearest = (values, value) => values.reduce((best, v, i) => (Math.abs(Math.log(v / value)) < Math.abs(Math.log(values[best] / value)) ? i : best), 0);
  const controls = SLIDERS.map(([key, words, values]) => {
    const field = make("input", { id: key, type: "number", min: 1, max: given.most[key], step: 1, required: true });
    const slider = make("input", { id: `${key}-slider`, type: "range", min: 0, max: values.length - 1, step: 1 });
    const limits = make("span", { className: "limits" }, ...say(`a whole number from 1 to ${given.most[key]}`, `1 到 ${given.most[key]} 的整数`));
    const name = make("label", { htmlFor: key, id: `${key}-label` }, ...say(...words));
    slider.setAttribute("aria-labelledby", name.id);
    const put = () => {
      slider.value = nearest(values, setting[key]);
      slider.setAttribute("aria-valuetext", setting[key]);
    };
    const fill = () => { field.value = setting[key]; put(); };
    slider.addEventListener("input", () => { setting[key] = values[slider.value]; fill(); show(); });
    field.addEventListener("input", () => {
      if (!field.checkValidity()) return; // the page keeps what it last understood; the field says what it wants
      setting[key] = Number(field.value);
      put();
      show();
    });
    one("#sliders").append(make("div", { className: "control" }, name, field, slider, limits));
    return fill;
  });
  const fields = [["fma", "fma_per_s"], ["bandwidth", "bytes_per_s"]].map(([key, source]) => {
    const field = one(`#${key}`);
    field.addEventListener("input", () => {
      if (!field.checkValidity()) return;
      rates[key] = Number(field.value) * 1e9;
      show();
    });
    return () => { rates[key] = given.machine[source]; field.value = (given.machine[source] / 1e9).toPrecision(3); };
  });
  const fill = () => [...controls, ...fields].forEach((put) => put());
  one("#controls").addEventListener("reset", (event) => {
    event.preventDefault();
    Object.assign(setting, start);
    fill();
    show();
  });
  one("#controls").addEventListener("submit", (event) => event.preventDefault());
  const { name, threads } = given.machine;
  one("#machine").replaceChildren(...say(`${name}, ${threads} ${threads === 1 ? "thread" : "threads"}: rates measured there. Change them to yours.`, `${name}，${threads} 个线程：速率为在其上实测，可改成你自己的。`));

  // --- the language: of the reader's choice, else of the browser ---
  const TITLES = { en: "What a convolution costs · separable", zh: "一次卷积，代价几何 · separable" };
  const speak = (language) => {
    document.documentElement.lang = language;
    document.title = TITLES[language];
    document.querySelectorAll("[data-language]").forEach((button) => button.setAttribute("aria-pressed", button.dataset.language === language));
  };
  document.querySelectorAll("[data-language]").forEach((button) => button.addEventListener("click", () => speak(button.dataset.language)));
  speak(navigator.language.startsWith("zh") ? "zh" : "en");
  one(".languages").hidden = one(".desk").hidden = false;
  fill();
  show();
})();
