// Searching in pages that are opened from a folder: browsers refuse to start a worker from file://.
// There a hidden frame runs the worker's script instead. On a server this file does nothing.
if (location.protocol === "file:") {
  const load = (document, url) =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script")
      script.src = new URL(url, location.href).href
      script.onload = resolve
      script.onerror = () => reject(new Error("Can't be read: " + url))
      document.body.appendChild(script)
    })

  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inner = this.frame.contentWindow
      inner.document.open()
      inner.document.write("<!doctype html><body></body>")
      inner.document.close()
      // What the script calls and hears as a worker does.
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      inner.importScripts = (...urls) =>
        urls.reduce((done, next) => done.then(() => load(inner.document, next)), Promise.resolve())
      this.ready = load(inner.document, url)
    }

    postMessage(data) {
      const { contentWindow } = this.frame
      this.ready.then(() => contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
