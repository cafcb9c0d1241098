import { render } from "preact";
import { App } from "./app.js";
import { follow } from "./live/live.js";
import "./styles.css";

void follow();
render(<App />, document.getElementById("app")!);
