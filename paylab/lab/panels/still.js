// Hides what a control has shown while the control itself is there to show it; draws nothing of its own.
import { begin } from "./panel.js";

export default {
  render({ model, el }) {
    el.style.display = "none";
    return begin(model, el, "paylab-still");
  },
};
