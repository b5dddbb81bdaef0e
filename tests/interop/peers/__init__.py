"""The programs of the matrix. A client gets the server's addresses and the cells to play, a server prints its own."""
