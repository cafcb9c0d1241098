// Trains models/harbour.gguf anew, stage after stage: what teaches to look back soonest is not what streams are like, and
// each stage mends what the one before answered worst. Stages that are there already are not trained again, and one that
// was interrupted goes on from where it was saved.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = path.join(root, "build", "harbour");
const shape = "--vocabulary 1536 --width 192 --layers 5 --feed-forward 512 --rope-base 1000000";

const STAGES = [
  // Short windows and many questions, from the first weights on.
  `${shape} --look-back --length 64:0.03,128:0.12,256:0.25,1024:0.6 --batch 2048 --rate 4e-3 --tokens 24000000 --seed 1 \
   --course every=8-50,exams=0,middle=0,late=0`,
  // More about people, who move the most.
  "--length 1024 --batch 4096 --rate 3e-3 --tokens 13000000 --seed 11 --course every=8-50,exams=0,middle=0,late=0,person=12,carries=12",
  // Exams.
  "--length 128:0.05,256:0.15,1024:0.8 --batch 4096 --rate 2.5e-3 --tokens 8000000 --seed 21 \
   --course exams=0.4,exam-every=same,lean=1,width=0.15,middle=0,late=0",
  // Exams about what was said a moment ago.
  "--length 128:0.08,256:0.2,1024:0.72 --batch 4096 --rate 2.5e-3 --tokens 12000000 --seed 31 \
   --course exam-every=same,lean=3,middle=0,late=0",
  // Exams about everything.
  "--length 256:0.12,1024:0.88 --batch 4096 --rate 2e-3 --tokens 10000000 --seed 41 \
   --course middle=0,late=0",
  // As streams are: windows from the middle of a town's life, and questions that come late.
  "--length 256:0.08,1024:0.92 --batch 4096 --rate 2e-3 --tokens 11000000 --seed 51",
];

mkdirSync(folder, { recursive: true });
let before;
for (const [index, stage] of STAGES.entries()) {
  const out = path.join(folder, `stage-${index + 1}.gguf`);
  if (!existsSync(out)) {
    console.error(`Stage ${index + 1} of ${STAGES.length}`);
    const flags =
      "--data world --type Q8_0 --name Harbour --answer-weight 8 --context 1024 --micro 2048 --resume";
    const from = before === undefined ? [] : ["--init", before];
    const args = ["train", ...flags.split(" "), ...stage.split(/\s+/), ...from, "--out", out];
    const { status } = spawnSync(process.execPath, [path.join(root, "bin", "millrace"), ...args], {
      stdio: "inherit",
    });
    // A run that was interrupted ends well, too, but writes no model.
    if (status !== 0 || !existsSync(out)) process.exit(status || 130);
  }
  before = out;
}
copyFileSync(before, path.join(root, "models", "harbour.gguf"));
