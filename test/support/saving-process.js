/** Saves a session over and over, until it is killed: node saving-process.js MODEL FILE. Prints a line after the first time. */
import { full, open } from "../../dist/index.js";

const [source, path] = process.argv.slice(2);
const model = await open(source, { backend: "null" });
const session = model.session({ memory: "8 MiB", cache: full() });
await session.append(Array.from({ length: 20_000 }, (_, i) => 3 + (i % 300)));
await session.save(path);
process.stdout.write("saved\n");
for (;;) {
  await session.append([5]);
  await session.save(path);
}
