// Prints, for each argument, the position of its first syntax error by Grafana's own LogQL grammar, or -1.
import { parser } from "@grafana/lezer-logql";

for (const text of process.argv.slice(2)) {
  let position = -1;
  parser.parse(text).iterate({
    enter: (node) => {
      if (node.type.isError && position < 0) position = node.from;
    },
  });
  console.log(position);
}
