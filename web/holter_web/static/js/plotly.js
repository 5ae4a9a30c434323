// plotly.min.js of the installed wheel, fetched from the service once a chart is wanted.

let loading = null;

export function loadPlotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/static/plotly.min.js";
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      loading = null;
      reject(new Error("The drawing library did not load."));
    };
    document.head.append(script);
  });
  return loading;
}

const dark = matchMedia("(prefers-color-scheme: dark)");

export const theme = () => (dark.matches ? "dark" : "light");

export function onTheme(listener) {
  dark.addEventListener("change", listener);
  return () => dark.removeEventListener("change", listener);
}

// A finger that drags wants to scroll the page, not to zoom a chart.
export const touch = matchMedia("(pointer: coarse)").matches;
