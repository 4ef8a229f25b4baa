// openai-node against a gateway: node openai_node.mjs URL MODEL; one line of JSON for each case.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages are in the folder that the command runs in, this file is not.
const require = createRequire(pathToFileURL(`${process.cwd()}/package.json`));
const OpenAI = require("openai");
const { zodResponseFormat, zodFunction, zodTextFormat } = require("openai/helpers/zod");
const { z } = require("zod");
const { version } = JSON.parse(readFileSync("node_modules/openai/package.json", "utf8"));

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: "Say hi." }];
const asked = { model, messages, max_tokens: 60, temperature: 0 };
const Count = z.object({ count: z.union([z.literal(1), z.literal(2), z.literal(3)]) });

function expect(condition, what) {
  if (!condition) throw new Error(what);
}

const cases = {
  async chat() {
    const answer = await client.chat.completions.create({ ...asked, max_tokens: 6 });
    expect(answer.choices[0].message.content && answer.usage.completion_tokens === 6, JSON.stringify(answer));
  },
  async stream() {
    const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
    let text = "";
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    expect(text && usage.completion_tokens > 0, text);
  },
  async tools() {
    const tools = [zodFunction({ name: "look_up", parameters: Count })];
    const answer = await client.chat.completions.parse({ ...asked, tools, tool_choice: "required" });
    expect([1, 2, 3].includes(answer.choices[0].message.tool_calls[0].function.parsed_arguments.count), "arguments");
  },
  async streamed_tools() {
    const tools = [zodFunction({ name: "look_up", parameters: Count })];
    const runner = client.chat.completions.stream({ ...asked, tools, tool_choice: "required" });
    const [call] = (await runner.finalMessage()).tool_calls;
    expect(Count.parse(JSON.parse(call.function.arguments)), call.function.arguments);
  },
  async parse() {
    const answer = await client.chat.completions.parse({ ...asked, response_format: zodResponseFormat(Count, "count") });
    expect([1, 2, 3].includes(answer.choices[0].message.parsed.count), "parsed");
  },
  async responses() {
    const answer = await client.responses.create({ model, input: "Say hi.", max_output_tokens: 20 });
    expect(answer.output_text, JSON.stringify(answer));
  },
  async responses_stream() {
    let text = "";
    for await (const event of await client.responses.create({ model, input: "Hi.", max_output_tokens: 20, stream: true })) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    expect(text, "an empty stream");
  },
  async responses_parse() {
    const text = { format: zodTextFormat(Count, "count") };
    const answer = await client.responses.parse({ model, input: "How many?", max_output_tokens: 40, text });
    expect([1, 2, 3].includes(answer.output_parsed.count), "parsed");
  },
  async callers_mistake() {
    try {
      await client.chat.completions.create({ ...asked, n: 33 });
    } catch (error) {
      expect(error instanceof OpenAI.BadRequestError && error.param === "n", String(error));
      return;
    }
    throw new Error("no BadRequestError");
  },
};

for (const [name, run] of Object.entries(cases)) {
  let reason = "";
  try {
    await run();
  } catch (error) {
    reason = `${error.constructor.name}: ${error.message}`;
  }
  console.log(JSON.stringify({ client: "openai (node)", version, case: name, reason }));
}
