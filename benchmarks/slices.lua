-- Sides that take turns under one load. What is above this line in the script that wrk runs, slices.py has written:
--   SIDES   for each its path and the name of the header whose value changes
--   CPU     for each role the files with the CPU time of its threads, in ns
--   SEED, SETTLE_S, SLICE_S, VALUES, BODY, RESULT
--
-- All connections stay open. After a switch, answers to the last side's requests still come in: those of SETTLE_S are
-- not counted. A request is counted when it is sent, which wrk does when the answer before it has come.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } bench_time;
  int clock_gettime(int clock, bench_time *time);
]]
local MONOTONIC = ffi.os == "OSX" and 6 or 1
local LOOKS_AT_CLOCK = 16 -- requests between two looks

local time = ffi.new("bench_time")
local threads = {}
local ready, order = {}, {}
local place, sent, counted, value = 0, 0, 0, 0
local side, began, counting_from, cpu_before

slices = {} -- global: read by done() through thread:get

local function now()
  ffi.C.clock_gettime(MONOTONIC, time)
  return tonumber(time.seconds) + 1e-9 * tonumber(time.nanoseconds)
end

local function cpu_ns()
  local spent = {}
  for role, paths in ipairs(CPU) do
    spent[role] = 0
    for _, path in ipairs(paths) do
      local file = io.open(path)
      if file then
        spent[role] = spent[role] + (file:read("*n") or 0)
        file:close()
      end
    end
  end
  return spent
end

-- The next side; each cycle has all of them, in a new order.
local function turn()
  place = place % #SIDES + 1
  if place == 1 then
    for i = 1, #SIDES do
      local j = math.random(i)
      order[i] = order[j]
      order[j] = i
    end
  end
  return order[place]
end

local function look(at)
  if not began or at - began >= SETTLE_S + SLICE_S then
    if counting_from then
      local spent = cpu_ns()
      slices[#slices + 1] = string.format(
        '[%d,%.9f,%d,%.0f,%.0f]',
        side - 1, at - counting_from, counted, spent[1] - cpu_before[1], spent[2] - cpu_before[2]
      )
    end
    side, began, counting_from = turn(), at, nil
  elseif not counting_from and at - began >= SETTLE_S then
    counting_from, counted, cpu_before = at, 0, cpu_ns()
  end
end

function setup(thread)
  threads[#threads + 1] = thread
end

function init()
  math.randomseed(SEED)
  for number, one in ipairs(SIDES) do
    ready[number] = {}
    for i = 1, VALUES do
      local headers = {
        ["Host"] = wrk.headers["Host"],
        ["Content-Type"] = "application/json",
        [one.header] = string.format("user-%06d", (i * 7919) % 1000000),
      }
      ready[number][i] = wrk.format("POST", one.path, headers, BODY)
    end
  end
end

function request()
  if sent % LOOKS_AT_CLOCK == 0 then
    look(now())
  end
  sent, counted = sent + 1, counted + 1
  value = value % VALUES + 1
  return ready[side][value]
end

function done(summary)
  local errors = summary.errors
  local all = {}
  for _, thread in ipairs(threads) do
    for _, slice in ipairs(thread:get("slices")) do
      all[#all + 1] = slice
    end
  end
  io.write(string.format(
    '\n%s{"slices":[%s],"requests":%d,"not_ok":%d,"socket_errors":%d}\n',
    RESULT, table.concat(all, ","), summary.requests, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout
  ))
end
