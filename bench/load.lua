-- Script of wrk: asks for the lines of a file in turn, and prints one JSON object at the end.
--   wrk … URL -- PATHS HEADERS [PAUSE_MS] [HEADER]
-- Of several lines Authorization in HEADERS, each request has another. HEADER: each line is sent as the value of this header to the one path of URL, instead of being the path itself.

local started, paths, tokens, position, line_header = 0, {}, {}, 0, nil

function setup(thread)
  thread:set("number", started)
  started = started + 1
end

function init(arguments)
  for line in io.lines(arguments[1]) do paths[#paths + 1] = line end
  for line in io.lines(arguments[2]) do
    local name, value = line:match("^(.-): (.*)$")
    if name == "Authorization" then tokens[#tokens + 1] = value end
    wrk.headers[name] = value
  end
  local pause = tonumber(arguments[3] or 0)
  if pause > 0 then
    -- Spread around the pause, so that clients do not march in step.
    delay = function() return pause * (0.5 + math.random()) end
  end
  line_header = arguments[4]
  math.randomseed(number)
  position = math.floor(#paths / 2) * number  -- threads do not ask for the same at the same time
end

function request()
  position = position % #paths + 1
  wrk.headers["Authorization"] = tokens[position % #tokens + 1]
  if line_header == nil then return wrk.format("GET", paths[position]) end
  wrk.headers[line_header] = paths[position]
  return wrk.format("GET")
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "bytes": %d, "refused": %d, "broken": %d, "p50_ms": %f, "p95_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
