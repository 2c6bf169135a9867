using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [ (name = "main", worker = .worker), (name = "disk", disk = (writable = true)) ],
  sockets = [ (name = "http", address = "127.0.0.1:0", http = (), service = "main") ],
);

const worker :Workerd.Worker = (
  modules = [ (name = "worker", esModule = embed "worker.mjs") ],
  compatibilityDate = "2026-01-01",
  durableObjectNamespaces = [ (className = "Task", uniqueKey = "tasks", enableSql = true) ],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [ (name = "TASK", durableObjectNamespace = "Task") ],
);
